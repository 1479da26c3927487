"""Tokenizers as transformers reads them: the same ids as our commands give a model."""

import json

import jinja2.sandbox
import pytest
import tokenizers

from configs.reading.recipes import load_config
from data.codecs.chat import ChatTokenizer
from data.codecs.gaps import GapCodec, joined_ids
from data.codecs.tokenizers import Tokenizer
from inference.engine.job import Job
from inference.requests import Request
from interop.formats.hub_tokenizer import HubTokenizer
from tests.interop import foreign

TEXTS = ["3 times 3 is 9", "isn't it?", "It's naïve.\n\n  7"]

OURS = {
    "characters": lambda: Tokenizer.characters([foreign.TEXT]),
    "bytes": Tokenizer.bytes,
    "bpe": lambda: Tokenizer.train_bpe([foreign.TEXT], 300),
    "unigram": lambda: Tokenizer.train_unigram([foreign.TEXT], 300),
    "wordpiece": lambda: Tokenizer.train_wordpiece([foreign.TEXT], 600),
    "words": lambda: Tokenizer.train_words([foreign.TEXT], 100),
}
NAMES = [*OURS, *foreign.FAMILIES]


def stored(tmp_path, name) -> Tokenizer:
    """The tokenizer as a workdir has it."""
    if name in OURS:
        tokenizer = OURS[name]()
    else:
        foreign.write_tokenizer(tmp_path / "folder", name)
        tokenizer = Tokenizer.load(tmp_path / "folder" / "tokenizer.json")
    tokenizer.save(tmp_path / "tokenizer.json")
    return Tokenizer.load(tmp_path / "tokenizer.json")


def written(tmp_path, recipe: str, **fields: str):
    """What is written for a run of `recipe`: the tokenizer, its configuration, and the writer."""
    config = load_config(
        f"configs/{recipe}.py",
        {name.replace("__", "."): value for name, value in fields.items()},
        inputs=False,
    )
    out = tmp_path / "out"
    out.mkdir()
    hub = HubTokenizer(tmp_path / "tokenizer.json", config, 64)
    assert not hub.write(out)
    told = json.loads((out / "tokenizer_config.json").read_text())
    return tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")), told, hub


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_has_the_ids_that_generate_gives_the_model(tmp_path, name):
    ours = stored(tmp_path, name)
    theirs, told, hub = written(tmp_path, "python_stdlib")
    for text in TEXTS:
        expected = Job(Request(text), ours, None, None).ids
        assert theirs.encode(text).ids == expected
        assert theirs.decode(expected, skip_special_tokens=False) == ours.decode(expected)
    ids = hub.ids()
    assert theirs.token_to_id(told["eos_token"]) == ids["eos_token_id"] == ours.end_id
    assert theirs.token_to_id(told["bos_token"]) == ids["bos_token_id"] == ours.document_opening[-1]
    assert theirs.get_vocab() == ours.vocabulary()
    original = tmp_path / "out" / "triform_tokenizer.json"
    assert original.exists() == (name == "bert")  # what closes a text does not follow a prompt


# The tokenizer of Llama 2 puts a space before each text, so also after each mask.
@pytest.mark.parametrize("name", [one for one in NAMES if one != "llama"])
def test_a_text_with_gaps_has_the_ids_that_generate_gives_the_model(tmp_path, name):
    ours = stored(tmp_path, name)
    theirs, told, _ = written(tmp_path, "masked_language_model")
    original = tmp_path / "out" / "triform_tokenizer.json"
    assert original.read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    mask = theirs.token_to_id(told["mask_token"])
    assert mask == ours.vocabulary_size
    assert told["mask_token"] == ("<mask>" if name == "bert" else "[MASK]")
    codec = GapCodec(ours)
    for around in (["3 times ", " is 9"], ["", " times 3"], ["isn't it", ""]):
        pieces = codec.encode(around)
        expected = ours.framed(joined_ids(pieces, [mask] * (len(around) - 1)))
        assert theirs.encode(told["mask_token"].join(around)).ids == expected.tolist()


@pytest.mark.parametrize("name", ["bpe", "bert"])
def test_a_text_to_label_has_the_ids_that_generate_gives_the_model(tmp_path, name):
    ours = stored(tmp_path, name)
    theirs, told, hub = written(tmp_path, "text_classification")
    for text in TEXTS:
        assert theirs.encode(text).ids == ours.framed(ours.encode(text)).tolist()
    framed = name == "bert"
    assert told.get("cls_token") == ("[CLS]" if framed else None)
    assert told["pad_token"] == ("[PAD]" if framed else "<|endoftext|>")
    nothing = {"bos_token_id": None, "eos_token_id": None}
    assert hub.ids() == nothing | {"pad_token_id": 0 if framed else None}


TEMPLATES = {
    "ours": None,
    "with its opening": "{{ bos_token }}{% for message in messages %}{{ message.role }}: "
    "{{ message.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: "
    "{% endif %}",
    "on a new line": "\n{% for message in messages %}\n{{ message.role }}: {{ message.content }}"
    "{{ eos_token }}\n{% endfor %}\n{{ 'assistant: ' if add_generation_prompt }}",
}
MESSAGES = [
    {"role": "user", "content": "3 times 3"},
    {"role": "assistant", "content": "is 9"},
    {"role": "user", "content": "isn't it?"},
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["characters", "bpe", "llama", "llama3"])
def test_a_conversation_has_the_ids_that_generate_gives_the_model(tmp_path, name, template):
    ours = stored(tmp_path, name)
    source = TEMPLATES[template]
    fields = {} if source is None else {"data__chat_template": source}
    theirs, told, hub = written(
        tmp_path,
        "finetune_chat",
        data__tokenizer__path=str(tmp_path / "tokenizer.json"),
        **fields,
    )
    chat = ChatTokenizer(ours, source)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    text = (tmp_path / "out" / "chat_template.jinja").read_text()
    rendered = environment.from_string(text).render(
        messages=MESSAGES,
        add_generation_prompt=True,
        bos_token=told["bos_token"],
        eos_token=told["eos_token"],
    )
    expected = chat.encoder.encode_opening(MESSAGES)
    assert theirs.encode(rendered, add_special_tokens=False).ids == expected.tolist()
    assert hub.ids()["eos_token_id"] == chat.end_id


def test_a_tokenizer_that_transformers_would_replace_is_told(tmp_path):
    stored(tmp_path, "bpe")
    _, _, hub = written(tmp_path, "python_stdlib")
    (note,) = hub.notes_for("qwen2")
    assert "PreTrainedTokenizerFast" in note and hub.notes_for("llama") == ()
    own = json.loads((tmp_path / "tokenizer.json").read_text())
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
    parts = [split, own["pre_tokenizer"] | {"use_regex": False}]
    own["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": parts}
    (tmp_path / "tokenizer.json").write_text(json.dumps(own))
    config = load_config("configs/python_stdlib.py", {}, inputs=False)
    assert HubTokenizer(tmp_path / "tokenizer.json", config, 64).notes_for("qwen2") == ()


def test_what_is_never_written_is_suppressed(tmp_path):
    ours = stored(tmp_path, "words")
    written(tmp_path, "python_stdlib")
    told = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert told["suppress_tokens"] == [ours.unknown_id] == [1]
    assert told["pad_token_id"] == told["eos_token_id"] == 0
