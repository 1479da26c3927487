"""Folders of transformers in place of a workdir: the ids, texts and ends are those that their own
library gives."""

import jax
import numpy as np
import pytest
import torch
import transformers

from data.codecs.chat import for_prompts
from inference.loading import load_model
from interop.families import FAMILIES
from tests.interop.foreign import write_tokenizer

BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.5,
}
MODELS = {
    "llama": ("llama3", transformers.LlamaConfig, BLOCKS),
    "qwen3": ("gpt2", transformers.Qwen3Config, BLOCKS | {"head_dim": 8}),
    "gpt2": (
        "gpt2",
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.5},
    ),
}
PROMPTS = ["3 times 4", "It's", "a ☃ 😀"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
GREEDY = {"do_sample": False, "max_new_tokens": 16}


def make(path, name, dtype=torch.float32):
    """A folder of a family with random weights, and its model and tokenizer of transformers."""
    tokenizer_name, kind, fields = MODELS[name]
    count = write_tokenizer(path, tokenizer_name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = kind(vocab_size=count + 3, **fields, **ids)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.save_pretrained(path)
    return transformers.AutoModelForCausalLM.from_pretrained(path), tokenizer


def continuation(model, ids, ends=None):
    """The tokens that a model of transformers writes after a prompt."""
    given = torch.tensor([ids])
    options = GREEDY | ({} if ends is None else {"eos_token_id": ends})
    with torch.no_grad():
        return model.generate(given, **options)[0, len(ids) :].tolist()


@pytest.mark.parametrize("name", [name for name in MODELS if name in FAMILIES])
def test_texts_go_on_as_their_library_writes_them(name, tmp_path):
    theirs, tokenizer = make(tmp_path, name)
    ours = load_model(tmp_path)
    answers = ours.predict(prompt=PROMPTS, max_tokens=16, temperature=0, logprobs=True)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert answer.prompt_tokens == len(ids)
        written = continuation(theirs, ids)
        assert [one.token for one in answer.logprobs] == written[: len(answer.logprobs)]
        rest = written[len(answer.logprobs) :]
        assert rest in ([], [tokenizer.eos_token_id])
        assert (answer.finish_reason == "stop") == bool(rest)


def test_each_end_of_generation_config_ends_a_text(tmp_path):
    theirs, tokenizer = make(tmp_path, "llama")
    ids = tokenizer(PROMPTS[0])["input_ids"]
    written = continuation(theirs, ids)
    special = tokenizer.bos_token_id
    theirs.generation_config.eos_token_id = [special, tokenizer.eos_token_id]
    theirs.generation_config.save_pretrained(tmp_path)
    head = theirs.lm_head.weight
    with torch.no_grad():  # The bos token is drawn where the fourth token was.
        head[[special, written[3]]] = head[[written[3], special]]
    theirs.save_pretrained(tmp_path)
    stopped = continuation(theirs, ids, [special, tokenizer.eos_token_id])
    (answer,) = load_model(tmp_path).predict(prompt=PROMPTS[:1], max_tokens=16, temperature=0)
    assert stopped[-1] == special and len(stopped) < 16
    assert (answer.finish_reason, answer.tokens) == ("stop", len(stopped) - 1)


@pytest.mark.parametrize("name", [name for name in MODELS if name in FAMILIES])
def test_a_message_has_the_ids_of_their_chat_template(name, tmp_path):
    make(tmp_path, name)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_model(tmp_path)
    prompts = for_prompts(ours.tokenizer, ours.restored.model_def.config.data)
    for text in PROMPTS:
        messages = [{"role": "user", "content": text}]
        theirs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )
        assert prompts.encode(text).tolist() == theirs["input_ids"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_weights_give_the_logits_of_float32(dtype, tmp_path):
    make(tmp_path, "llama", dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = np.arange(3, 15, dtype=np.int32)[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    module = load_model(tmp_path).module
    logits = jax.jit(lambda tokens: module(tokens)[0])(ids)
    np.testing.assert_allclose(logits, expected[..., : logits.shape[-1]], atol=1e-4, rtol=1e-4)
