"""llama.cpp reads our GGUF files: the same ids of texts, the same tokens after them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import export
import generate
from data.codecs.chat import ChatEncoder
from data.codecs.tokenizers import Tokenizer
from interop.formats import gguf as format_gguf
from interop.gguf_vocabulary import PRE_TOKENIZERS
from tests.interop import sources
from tests.parity.llama_server import served

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

GOLDEN = Path(__file__).parents[1] / "golden" / "workdirs" / "attention_text"


def exported(source: Any, folder: Path) -> Path:
    path = folder / "model.gguf"
    format_gguf.write(source, path)
    return path


Step = tuple[int, float]
"""A token and its log-probability."""


def greedy(post: Any, prompt: Any, count: int) -> tuple[list[int], list[Step]]:
    """The likeliest tokens after a prompt, and the steps that llama.cpp tells of: it leaves out
    parts of characters."""
    answer = post(
        "/completion",
        prompt=prompt,
        n_predict=count,
        temperature=0,
        n_probs=1,
        return_tokens=True,
        cache_prompt=False,
        ignore_eos=True,
    )
    told = [(one["id"], one["logprob"]) for one in answer["completion_probabilities"]]
    return answer["tokens"], told


def steps_of_ours(source: Any, ids: list[int], count: int) -> list[Step]:
    ids, steps = list(ids), []
    next_logits, end = sources.next_logits(source), Tokenizer.load(source.tokenizer).end_id
    for _ in range(count):
        logits = next_logits(ids).astype(np.float64)
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        logits[end] = -np.inf
        steps.append((int(logits.argmax()), logprobs[logits.argmax()]))
        ids.append(steps[-1][0])
    return steps


def are_part(told: list[Step], steps: list[Step], tolerance: float) -> bool:
    """Whether all steps of llama.cpp are among ours, in order."""
    rest = iter(steps)
    return bool(told) and all(
        any(one == own and math.isclose(logprob, own_logprob, abs_tol=tolerance)
            for own, own_logprob in rest)
        for one, logprob in told
    )  # fmt: skip


@pytest.mark.parametrize("name", sources.LIKE_LLAMA)
def test_greedy_tokens_are_the_same(tmp_path, name):
    source = sources.decoder(tmp_path, **sources.LIKE_LLAMA[name])
    prompt = "7 times 5 is"
    ids = Tokenizer.load(source.tokenizer).encode(prompt).tolist()
    with served(exported(source, tmp_path)) as post:
        assert post("/tokenize", content=prompt, add_special=True)["tokens"] == ids
        tokens, told = greedy(post, prompt, 12)
    steps = steps_of_ours(source, ids, 12)
    assert tokens == [token for token, _ in steps]
    assert are_part(told, steps, 1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_dtypes_are_read(tmp_path, dtype):
    source = sources.decoder(tmp_path, dtype=dtype)
    prompt = "7 times 5 is"
    with served(exported(source, tmp_path)) as post:
        _, told = greedy(post, prompt, 4)
    ids = Tokenizer.load(source.tokenizer).encode(prompt).tolist()
    assert are_part(told, steps_of_ours(source, ids, 4), 0.1)


PIECES = [
    *"abcXYZ 0123456789  \n\t'\"-_.,;:!?()[]{}<>|/\\@#$%^&*+=~`",
    *("'s", "'ll", "'T", "don't", "  ", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028"),
    *("é", "ß", "ñ", "Ω", "ж", "你好", "日本", "한국", "ไทย", "العربية", "हिन्दी", "e\u0301", "ﬁ"),
    *("½", "²", "٣", "Ⅳ", "😀", "👩\u200d👩\u200d👧", "\u200b", "\ufeff", "\x07", "\u2581"),
    *("<|endoftext|>", "<|unknown|>", "<s>", "times", " is ", "n't", "isn", "naïve", "<0x0A>"),
]


def texts(count: int) -> list[str]:
    """Texts that are hard to split into words."""
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 30))) for _ in range(count)]


def byte_pairs(name: str) -> Tokenizer:
    """Byte pairs of the texts, split into words as one of `PRE_TOKENIZERS`."""
    pre = next(one for one in PRE_TOKENIZERS if one.name == name)
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre.ignores_merges))
    spec = json.loads(backend.to_str()) | {"pre_tokenizer": pre.spec | {}}
    spec = json.loads(json.dumps(spec).replace('"use_regex"', '"trim_offsets": true, "use_regex"'))
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*sources.TEXT.splitlines(), *texts(400)], trainer)
    return Tokenizer(backend)


def sentencepiece() -> Tokenizer:
    """Llama 2's kind of tokenizer, with all ways to make each of its tokens."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["▁", *sorted(set(sources.TEXT.replace(" ", "").replace("\n", "")))]
    longer = [
        "▁t",
        "in",
        "▁ti",
        "mes",
        "es",
        "▁times",
        "▁is",
        "is",
        "▁▁",
        "▁▁▁▁",
        "n't",
        "'t",
        "▁1",
    ]
    known = dict.fromkeys([*special, *letters, *longer])
    merges = []
    for token in longer:
        ways = ((token[:at], token[at:]) for at in range(1, len(token)))
        merges += [(left, right) for left, right in ways if left in known and right in known]
    tokens = {token: number for number, token in enumerate(known)}
    model = models.BPE(tokens, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokens["<s>"])]
    )
    return Tokenizer(backend)


TOKENIZERS = {
    **{one.name: (lambda name=one.name: byte_pairs(name)) for one in PRE_TOKENIZERS},
    "bytes": Tokenizer.bytes,
    "sentencepiece": sentencepiece,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_have_the_same_ids(tmp_path, name):
    tokenizer = TOKENIZERS[name]()
    source = sources.decoder(tmp_path, tokenizer)
    wrong = []
    with served(exported(source, tmp_path)) as post:
        for text in texts(300):
            ids = [*tokenizer.opening.tolist(), *tokenizer.encode(text).tolist()]
            told = post("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
            wrong += [(text, ids, told)] if told != ids else []
    assert not wrong, (len(wrong), wrong[0])


def test_known_characters_have_the_same_ids_and_unknown_ones_one_each(tmp_path):
    tokenizer = Tokenizer.characters(["abc déﬁ 你\n\t"])
    source = sources.decoder(tmp_path, tokenizer)
    with served(exported(source, tmp_path)) as post:
        for text in ("a", " a", "a  b", "\n c\t", "é你 ﬁ", "a☃b", "x", " ☃ x ", "a<b"):
            told = post("/tokenize", content=text, add_special=True, parse_special=False)["tokens"]
            assert told == tokenizer.encode(text).tolist()
        told = post("/tokenize", content="a☃☃b", add_special=True)["tokens"]
        bias = [[tokenizer.unknown_id, 1000.0]]
        tokens = post("/completion", prompt="a", n_predict=9, logit_bias=bias, return_tokens=True)
        assert tokenizer.unknown_id not in tokens["tokens"]
    assert told == tokenizer.encode("a☃b").tolist()


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)


@pytest.mark.parametrize("template", [None, CHATML, "{{ bos_token }}" + CHATML])
def test_a_conversation_has_the_same_ids_and_the_answer_ends_alike(tmp_path, template):
    tokenizer = sources.byte_pairs()
    tokenizer.backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = Tokenizer(tokenizer.backend)
    changes = {} if template is None else {"data__chat_template": template}
    talk = {"data__source": "conversations", "data__path": "x", "task__sample_prompts": "()"}
    source = sources.decoder(tmp_path, tokenizer, **talk, **changes)
    asked = [
        {"role": "user", "content": "7 times 5?"},
        {"role": "assistant", "content": "is 35"},
        {"role": "user", "content": "times 2?\n"},
    ]
    encoder = ChatEncoder(tokenizer, template)
    ids = encoder.encode_opening(asked).tolist()
    with served(exported(source, tmp_path)) as post:
        prompt = post("/apply-template", messages=asked)["prompt"]
        answer = post("/tokenize", content=prompt, add_special=True, parse_special=True)
        assert answer["tokens"] == ids
        bias = [[encoder.end_id, 1000.0]]
        answer = post("/completion", prompt=ids[-9:], n_predict=3, logit_bias=bias)
        assert answer["stop_type"] == "eos"


def test_the_command_writes_what_llama_cpp_continues_as_generate_does(tmp_path, capsys):
    path, prompt = tmp_path / "model.gguf", "the o"
    flags = [f"--workdir={GOLDEN}", "--format=gguf", f"--out={path}"]
    assert export.main(flags) == 0
    assert capsys.readouterr().out == f"{path}\n"
    flags = [f"--workdir={GOLDEN}", f"--prompt={prompt}", "--max_tokens=10", "--temperature=0"]
    assert generate.main([*flags, "--json"]) == 0
    with served(path) as post:
        answer = post("/completion", prompt=prompt, n_predict=10, temperature=0)
    assert answer["content"] == json.loads(capsys.readouterr().out)["text"]
