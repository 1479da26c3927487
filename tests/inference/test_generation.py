"""Completions equal those of the plain way: the whole text again for every token."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from configs.errors import UsageError
from configs.schema.mesh import Mesh
from data.codecs.tokenizers import UNKNOWN, Tokenizer
from inference.engine import engine
from inference.predictors import completion
from inference.predictors.completion import TextCompletion
from inference.requests import Request, Sampling
from parallel.axes import replicated
from parallel.mesh import flat_mesh
from tests.model.decoders import logits_of, make_decoder

TOKENIZER = Tokenizer.characters(["abcdefghijklmno"])
UNKNOWN_ID = TOKENIZER.vocabulary()[UNKNOWN]
CONTEXT = 16
RULES = Mesh().rules.model_dump()
GREEDY = Sampling(temperature=0)
KINDS = {
    "attention": {},
    "learned positions": {"positions": "learned"},
    "grouped heads, window": {"num_kv_heads": 2, "attention_window": 5},
    "some windows, norms of heads": {"pattern": "GA", "attention_window": 5, "qk_norm": True},
    "mixed": {"pattern": "RA"},
    "scanned": {"scan_layers": True},
}


def generator(devices: int = 1, context: int = CONTEXT) -> TextCompletion:
    mesh = flat_mesh(jax.devices()[:devices])
    return TextCompletion(TOKENIZER, context=context, mesh=mesh, rules=RULES)


def write_with(module, requests, on_text=None, *, predictor=None):
    """The completions of the requests."""
    return list((predictor or generator()).predict(module, requests, on_text=on_text))


def decoder(**changes):
    """A decoder that seldom ends a text."""
    module = make_decoder(vocabulary_size=17, max_length=CONTEXT, **changes)
    kernel = module.embedding.head.kernel
    kernel[...] = kernel[...].at[:, TOKENIZER.separator_id].mul(0.1)
    return module


def plainly(module, prompt: str, count: int, context: int = CONTEXT) -> str:
    """Greedy completion without a state; past the context, from its last half."""
    window = TOKENIZER.encode(prompt).tolist() or [TOKENIZER.separator_id]
    written = []
    for _ in range(count):
        if len(window) > context:
            window = window[-(context // 2) :]
        padded = np.zeros((1, context), int)
        padded[0, : len(window)] = window
        logits = np.array(logits_of(module, padded)[0, len(window) - 1])
        logits[UNKNOWN_ID] = -np.inf
        token = int(np.argmax(logits))
        if token == TOKENIZER.separator_id:
            break
        written.append(token)
        window.append(token)
    return TOKENIZER.decode(written)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_any_length_in_one_batch_go_on_as_each_would_alone(kind):
    """Past the context too; and in whatever portions the steps are taken."""
    module = decoder(**KINDS[kind])
    prompts = ["", "a", "hijack", "abcdefghijklmno", "bb"]
    requests = [
        Request(prompt, max_tokens=40, sampling=GREEDY, context_shift=True) for prompt in prompts
    ]
    completions = write_with(module, requests)
    assert [c.text for c in completions] == [plainly(module, prompt, 40) for prompt in prompts]
    assert [c.prompt_tokens for c in completions] == [1, 1, 6, 15, 2]
    assert all(c.tokens == len(c.text) for c in completions)
    assert any(c.finish == "length" and c.tokens == 40 for c in completions)


def test_a_text_that_fills_the_context_ends_there():
    module = decoder()
    prompts = ["a", "abcdefghijklmno"]
    requests = [Request(prompt, max_tokens=40, sampling=GREEDY) for prompt in prompts]
    completions = write_with(module, requests)
    assert [completion.finish for completion in completions] == ["length", "length"]
    assert [completion.tokens for completion in completions] == [16, 2]
    assert completions[0].text == plainly(module, "a", 16)


def test_recurrence_alone_reads_and_writes_past_the_context():
    module = decoder(pattern="R", positions="none")
    prompt = "abcdefghijklmno" * 3
    request = Request(prompt, max_tokens=30, sampling=GREEDY)
    (completion,) = write_with(module, [request])
    assert completion.text == plainly(module, prompt, 30, context=80)
    assert completion.prompt_tokens == 45


def sampled(prompts, **changes):
    changes = {"temperature": 1.5, **changes}
    return [
        Request(prompt, max_tokens=30, sampling=Sampling(**changes), context_shift=True)
        for prompt in prompts
    ]


@pytest.fixture(scope="module")
def module():
    return decoder()


@pytest.fixture(scope="module")
def write(module):
    """Completes requests with `module`; what it compiled stays."""
    return partial(write_with, module, predictor=generator())


def test_an_answer_does_not_depend_on_its_neighbours(write):
    (alone,) = write(sampled(["cab"]))
    assert write(sampled(["cab"])) == [alone]
    assert write(sampled(["", "ma", "cab", "o" * 16]))[2] == alone
    others = [*sampled([""], top_k=3), *sampled(["cab"]), *sampled(["b"], repetition_penalty=2.0)]
    assert write(others)[1] == alone


def test_seeds_and_repeated_prompts_give_other_answers(write):
    first, second, other, reseeded = write(
        [*sampled(["cab", "cab", "bac"]), *sampled(["cab"], seed=1)]
    )
    assert len({first.text, second.text, other.text, reseeded.text}) == 4
    assert write(sampled(["", "cab", "d", "cab"]))[1::2] == [first, second]


def test_more_requests_than_fit_at_once_wait_for_their_turn(write, monkeypatch):
    requests = sampled(["abc", "d", "", "ef"])
    together = write(requests)
    monkeypatch.setattr(completion, "MOST_ROWS", 1)
    assert write(requests) == together


@pytest.mark.parametrize("steps", [1, 5])
def test_portions_of_steps_do_not_matter(module, write, monkeypatch, steps):
    requests = sampled(["abc", "d", "", "ef"])
    together = write(requests)
    monkeypatch.setattr(engine, "MOST_STEPS", steps)
    assert write_with(module, requests) == together


def test_pieces_join_to_the_texts_and_the_last_one_brings_the_completion(write):
    requests = sampled(["abc", "d", "", "abc"])
    texts, ended = [""] * 4, [None] * 4

    def hear(index, piece, completion):
        assert ended[index] is None
        texts[index] += piece
        ended[index] = completion

    completions = write(requests, hear)
    assert completions == write(requests)
    assert ended == completions
    assert texts == [completion.text for completion in completions]


def test_a_stop_string_ends_its_own_text_alone(write):
    others = ["d", "", "ef"]
    whole = write(sampled(["abc", *others]))
    stop = whole[0].text[7:9]
    cut = dataclasses.replace(sampled(["abc"])[0], stop=(stop, "never"))
    completions = write([cut, *sampled(others)])
    assert completions[0].text == whole[0].text[: whole[0].text.index(stop)]
    assert (completions[0].finish, completions[0].tokens) == ("stop", len(completions[0].text))
    assert completions[1:] == whole[1:]


def test_the_separator_ends_a_text():
    module = decoder()
    kernel = module.embedding.head.kernel
    kernel[...] = kernel[...].at[:, TOKENIZER.separator_id].set(0)
    found = write_with(module, sampled(list("abcd"), temperature=3))
    assert "separator" in {completion.finish for completion in found}
    assert all(c.tokens == len(c.text) and "endoftext" not in c.text for c in found)


def test_the_unknown_character_is_never_written():
    module = decoder()
    kernel = module.embedding.head.kernel
    kernel[...] = kernel[...].at[:, UNKNOWN_ID].mul(30)  # the likeliest token, or the unlikeliest
    found = write_with(module, sampled(list("abcd")))
    assert not any(UNKNOWN in completion.text for completion in found)


def test_the_repetition_penalty_counts_the_prompt_and_what_was_written(write):
    prompt = "abcdefghijklm"
    strong = Sampling(temperature=0, repetition_penalty=1e6)
    (completion,) = write([Request(prompt, 3, sampling=strong)])
    tokens = TOKENIZER.encode(prompt).tolist()
    for character in completion.text:
        logits = np.array(logits_of(decoder(), np.array([tokens]))[0, -1])
        logits[UNKNOWN_ID] = -np.inf
        penalized = np.where(logits > 0, logits / 1e6, logits * 1e6)
        expected = int(np.argmax(np.where(np.isin(np.arange(17), tokens), penalized, logits)))
        assert TOKENIZER.decode([expected]) == character
        tokens.append(expected)


def test_a_prompt_longer_than_the_context_is_an_error_with_both_lengths(write):
    with pytest.raises(UsageError, match=r"prompt 2 has 17 tokens, and the context .* only 16"):
        write(sampled(["a", "b" * 17]))
    assert write(sampled(["b" * 16, "a", "", "c"]))[0].tokens > 0


def test_a_mesh_of_eight_writes_what_one_device_writes(module, write):
    graph, parameters = nnx.split(module)
    everywhere = replicated(flat_mesh(jax.devices()))
    spread = nnx.merge(graph, jax.device_put(parameters, everywhere))
    requests = sampled(["abc", "", "d", "ef", "i", "jk", "lm", "no"])
    assert write_with(spread, requests, predictor=generator(8)) == write(requests)
