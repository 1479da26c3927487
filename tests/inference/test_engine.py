"""Requests that share an engine's slots give what each gives alone."""

import contextlib
import random
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from configs.schema.mesh import Mesh
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import Constraint
from inference.engine.engine import Engine
from inference.engine.prefix_cache import PrefixCache
from inference.engine.programs import ALL_OPTIONS, Programs
from inference.requests import Request, Sampling
from model.layers.sharding import AXES
from parallel.axes import named_sharding
from parallel.mesh import flat_mesh
from tests.model.decoders import logits_of, make_decoder

LETTERS = "abcdefghijklmno"
TOKENIZER = Tokenizer.characters([LETTERS])
CONTEXT = 64
RULES = Mesh().rules.model_dump()
MIXERS = {
    "attention": {},
    "window": {"num_kv_heads": 2, "attention_window": 5},
    "convolution": {"pattern": "C"},
    "lstm": {"pattern": "R", "recurrence": "lstm"},
    "gru": {"pattern": "R", "recurrence": "gru"},
    "rg_lru": {"pattern": "R", "recurrence": "rg_lru"},
    "mixture": {"pattern": "RAC", "depth": 3, "recurrence": "rg_lru"},
    "scanned": {"pattern": "RA", "scan_layers": True},
}


SOME_MIXERS = ("attention", "window", "mixture")
"""The mixers that are tested here; tests/full tests all."""


def build(changes: dict) -> tuple[nnx.Module, Programs]:
    """A decoder that seldom ends a text, and its programs with all options."""
    module = make_decoder(vocabulary_size=17, **{"max_length": CONTEXT} | changes)
    kernel = module.embedding.head.kernel
    kernel[...] = kernel[...].at[:, TOKENIZER.separator_id].mul(0.1)
    graph, _ = nnx.split(module)
    mesh = flat_mesh(jax.devices()[:1])
    return module, Programs.of(graph, TOKENIZER, mesh=mesh, rules=RULES, options=ALL_OPTIONS)


@pytest.fixture(scope="module", params=SOME_MIXERS)
def model(request) -> tuple[nnx.Module, Programs]:
    return build(MIXERS[request.param])


@pytest.fixture(scope="module")
def mixture() -> tuple[nnx.Module, Programs]:
    return build(MIXERS["mixture"])


@pytest.fixture(scope="module")
def attention() -> tuple[nnx.Module, Programs]:
    return build({})


def engine_of(model: tuple[nnx.Module, Programs], **options) -> Engine:
    module, programs = model
    context = CONTEXT if module.has_bounded_context else None
    _, params = nnx.split(module)
    return Engine(programs, params, TOKENIZER, context=context, **options)


def mixed_requests(count: int) -> list[Request]:
    """Requests of mixed lengths and settings; some begin alike."""
    draw = random.Random(0)
    shared = "".join(draw.choices(LETTERS, k=20))
    requests = []
    for number in range(count):
        prompt = "".join(draw.choices(LETTERS, k=draw.choice([0, 1, 3, 15, 16, 17, 40])))
        sampling = Sampling(
            temperature=draw.choice([0, 0.7, 1.5]),
            top_k=draw.choice([0, 0, 3]),
            top_p=draw.choice([1.0, 0.8]),
            min_p=draw.choice([0.0, 0.05]),
            repetition_penalty=draw.choice([1.0, 1.3]),
            frequency_penalty=draw.choice([0.0, 0.5]),
            presence_penalty=draw.choice([0.0, -0.5]),
            logit_bias=draw.choice([(), ((5, 2.0), (7, -100.0))]),
            seed=number,
        )
        requests.append(
            Request(
                shared + prompt if number % 3 == 0 else prompt,
                max_tokens=draw.choice([1, 5, 17, 40]),
                stop=draw.choice([(), (), ("ab", "c")]),
                sampling=sampling,
                logprobs=draw.random() < 0.3,
                prompt_logprobs=draw.random() < 0.1,
            )
        )
    return requests


def alone(model, requests: list[Request], **options) -> list:
    """The completion of each request without others, in an engine of the same size."""
    engine = engine_of(model, **options)
    completions = []
    for request in requests:
        job = engine.submit(request)
        engine.run()
        completions.append(job.completion)
    return completions


def arriving(engine: Engine, requests: list[Request]) -> list:
    """The completions of requests that arrive at random times."""
    draw, jobs, left = random.Random(1), [], list(requests)
    while left or engine.step():
        for _ in range(min(draw.choice([0, 0, 1, 5]), len(left))):
            jobs.append(engine.submit(left.pop(0)))
        if left:
            engine.step()
    return [job.completion for job in jobs]


def test_mixed_requests_that_arrive_at_random_give_what_each_gives_alone(model):
    check_mixed_requests(model)


def check_mixed_requests(model) -> None:
    """Requests that arrive at random give what each gives alone."""
    requests = mixed_requests(64)
    expected = alone(model, requests, sizes=(4,))
    assert arriving(engine_of(model, sizes=(4,)), requests) == expected
    assert len({completion.finish for completion in expected}) >= 2


@pytest.mark.full
def test_nothing_is_compiled_after_the_warm_up(attention):
    engine = engine_of(attention, rooms=(16, CONTEXT), prefix_cache=PrefixCache(1 << 20))
    engine.warm_up()
    with compilations() as compiled:
        completions = arriving(engine, mixed_requests(24))
    assert compiled == []
    assert any(completion.logprobs for completion in completions)
    assert any(completion.prompt_logprobs for completion in completions)


@contextlib.contextmanager
def compilations():
    """The programs that XLA compiles while this context is open."""
    compiled = []

    def listen(event: str, duration: float, **_: str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)


def test_other_sizes_and_rooms_give_the_same_texts(mixture):
    """Row counts and rooms round differently, so a text may differ only behind two tokens that are
    nearly as likely."""
    requests = mixed_requests(32)
    expected = alone(mixture, requests, sizes=(4,))
    found = arriving(engine_of(mixture, rooms=(32, CONTEXT)), requests)
    assert sum(a.text == b.text for a, b in zip(expected, found, strict=True)) >= 31


@pytest.mark.parametrize("speculates", [False, True], ids=["alone", "speculation"])
def test_the_room_grows_with_the_texts(speculates):
    """A request that may become long takes no more room than its text needs so far."""
    rooms = (48, 96, 192, 256)
    module, programs = build({"pattern": "AR", "recurrence": "gru", "max_length": rooms[-1]})
    _, params = nnx.split(module)
    draw = random.Random(0)
    prompts = ["".join(draw.choices(LETTERS, k=length)) for length in (3, 3, 5, 9, 12, 15, 60, 130)]
    endless = ((TOKENIZER.separator_id, -100.0),)
    requests = [
        Request(
            prompt,
            max_tokens=120,
            sampling=Sampling(seed=seed, logit_bias=endless),
            speculation=speculates,
        )
        for seed, prompt in enumerate(prompts)
    ]
    texts, seen = [], set()
    for one in (rooms, rooms[-1:]):
        engine = Engine(programs, params, TOKENIZER, context=rooms[-1], sizes=(1,), rooms=one)
        for request in requests:
            job = engine.submit(request)
            while engine.step():
                seen.add(engine._room)
            texts.append(job.completion.text)
    grown, whole = texts[: len(requests)], texts[len(requests) :]
    assert sum(a == b for a, b in zip(grown, whole, strict=True)) >= len(requests) - 1
    assert {len(text) for text in whole} == {120}
    assert {48, 192, 256} <= seen


def test_a_kept_prefix_gives_what_the_whole_prompt_gives(mixture):
    check_prefixes(mixture)


def check_prefixes(model) -> None:
    """Prompts whose beginning is kept give what they give when they are read whole."""
    cache = PrefixCache(1 << 20)
    requests = mixed_requests(48)
    expected = alone(model, requests, sizes=(4,))
    engine = engine_of(model, sizes=(4,), prefix_cache=cache)
    jobs = []
    for request in requests:
        jobs.append(engine.submit(request))
        engine.run()
    found = [job.completion for job in jobs]
    assert sum(a.text == b.text for a, b in zip(expected, found, strict=True)) >= 47
    assert sum(job.cached_tokens for job in jobs) > 100


def test_kept_prefixes_stay_within_their_bytes(attention):
    one = PrefixCache(1 << 30)
    engine = engine_of(attention, sizes=(1,), prefix_cache=one)
    engine.submit(Request(LETTERS * 2, max_tokens=1))
    engine.run()
    few = PrefixCache(3 * one.bytes)
    engine = engine_of(attention, sizes=(1,), prefix_cache=few)
    for request in mixed_requests(30):
        engine.submit(request)
        engine.run()
        assert few.bytes <= 3 * one.bytes


def test_a_cancelled_request_frees_its_slot(attention):
    engine = engine_of(attention, sizes=(1,))
    pieces = []
    endless = Request("ab", max_tokens=60, sampling=Sampling(temperature=0))
    first = engine.submit(endless, lambda piece, _: pieces.append(piece))
    waiting = engine.submit(endless)
    second = engine.submit(replace(endless, max_tokens=3))
    engine.step()
    assert first.has_begun and not waiting.has_begun
    engine.cancel(first)
    engine.cancel(waiting)
    engine.run()
    assert first.completion.finish == waiting.completion.finish == "cancelled"
    assert "".join(pieces) == first.completion.text
    assert second.completion.tokens == 3


def test_an_engine_that_expects_requests_does_not_let_a_short_text_wait_for_a_long_one(attention):
    endless = Sampling(logit_bias=((TOKENIZER.separator_id, -100.0),))
    is_done = {}
    for expects_more in (False, True):
        options = {"dispatch_seconds": 0, "expects_more": expects_more}
        engine = engine_of(attention, sizes=(2,), **options)
        engine.submit(Request("ab", max_tokens=2))
        engine.run()  # It knows how long a step takes.
        long, short = (
            engine.submit(Request("ab", max_tokens=most, sampling=endless)) for most in (30, 3)
        )
        while not short.is_done:
            engine.step()
        engine.step()  # Another dispatch may have been on its way.
        is_done[expects_more] = long.is_done
        engine.run()
        assert (short.completion.tokens, long.completion.tokens) == (3, 30)
    assert is_done == {False: True, True: False}


def test_answers_of_the_same_prompt_and_seed_differ_by_their_number(attention):
    request = Request("abc", max_tokens=20, sampling=Sampling(temperature=1.5, seed=3))
    numbered = [replace(request, repeat=number) for number in (0, 1, 2, 0)]
    texts = [completion.text for completion in alone(attention, numbered)]
    assert texts[0] == texts[3] and len(set(texts)) == 3


def test_logprobs_are_those_of_the_model(attention):
    module, _ = attention
    request = Request(
        "abcabd",
        max_tokens=4,
        sampling=Sampling(temperature=1.0, top_k=3, logit_bias=((4, 1.0),)),
        logprobs=True,
        prompt_logprobs=True,
    )
    (completion,) = alone(attention, [request], sizes=(1,))
    prompt = [TOKENIZER.separator_id, *TOKENIZER.encode("abcabd").tolist()]
    prompt = prompt[-completion.prompt_tokens :]
    written = TOKENIZER.encode(completion.text).tolist()
    tokens = [*prompt, *written]
    logprobs = np.asarray(jax.nn.log_softmax(logits_of(module, np.array([tokens]))[0]))
    scores = [*completion.prompt_logprobs, *completion.logprobs]
    assert [score.token for score in scores] == tokens[1:]
    for position, score in enumerate(scores):
        expected = logprobs[position]
        np.testing.assert_allclose(score.logprob, expected[score.token], atol=1e-4)
        assert score.top[0][0] == int(np.argmax(expected))
        np.testing.assert_allclose([p for _, p in score.top], -np.sort(-expected), atol=1e-4)


def test_nothing_of_a_stop_string_is_streamed(attention):
    whole = alone(attention, [Request("abc", 40, sampling=Sampling(temperature=0))])[0].text
    stop = whole[12:15]
    engine, pieces = engine_of(attention), []
    request = Request("abc", 40, stop=(stop,), sampling=Sampling(temperature=0))
    engine.submit(request, lambda piece, _: pieces.append(piece))
    engine.run()
    assert "".join(pieces) == whole[: whole.index(stop)]


@pytest.mark.parametrize("kind", ["mixture"])
def test_a_model_on_two_devices_of_the_tensor_axis_writes_the_same(kind):
    requests = mixed_requests(12)
    expected = alone(build(MIXERS[kind]), requests, sizes=(4,))
    module, _ = build(MIXERS[kind])
    axes = ("data", "fsdp", "tensor", "sequence")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(1, 1, 2, 1), axes)
    params = place(module, mesh)
    graph, _ = nnx.split(module)
    programs = Programs.of(graph, TOKENIZER, mesh=mesh, rules=RULES, options=ALL_OPTIONS)
    found = arriving(Engine(programs, params, TOKENIZER, context=CONTEXT, sizes=(4,)), requests)
    assert [completion.text for completion in found] == [one.text for one in expected]


def place(module: nnx.Module, mesh) -> nnx.State:
    """The arrays of `module`, sharded over `mesh` by the axes of its parameters."""
    _, params = nnx.split(module)

    def placed(path, variable):
        axes = variable.get_metadata()[AXES]
        array = variable[...]
        sharding = named_sharding(axes, array.shape, mesh=mesh, rules=RULES)
        return path, variable.replace(jax.device_put(array, sharding))

    return nnx.from_flat_state([placed(*one) for one in nnx.to_flat_state(params)])


CONSTRAINTS = {
    "choices": Constraint("choices", ("abc", "abdominal", "no", "f")),
    "regex": Constraint("regex", "a[bc]{2,5}(def|ghi)"),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constrained_texts_have_their_form_beside_free_ones(attention, kind):
    constrained = [
        Request(
            "ab", 20, sampling=Sampling(temperature=2.0, seed=seed), constraint=CONSTRAINTS[kind]
        )
        for seed in range(12)
    ]
    free = mixed_requests(12)
    requests = [request for pair in zip(constrained, free, strict=True) for request in pair]
    found = arriving(engine_of(attention, sizes=(4,)), requests)
    assert found[1::2] == alone(attention, free, sizes=(4,))
    form = "abc|abdominal|no|f" if kind == "choices" else "a[bc]{2,5}(def|ghi)"
    texts = [completion.text for completion in found[::2]]
    assert all(re.fullmatch(form, text) for text in texts), texts
    assert len(set(texts)) > 2
    assert {completion.finish for completion in found[::2]} == {"separator"}


def test_forced_tokens_are_read_and_not_asked_for(attention):
    """A text without a choice costs the prefill and the end token's step."""
    module, programs = attention
    steps = []

    def counted(*arguments):
        steps.append(int(arguments[3]))
        return programs.decode(*arguments)

    model = (module, replace(programs, decode=counted))
    engine = engine_of(model, sizes=(1,))
    job = engine.submit(Request("ab", 20, constraint=Constraint("choices", ("hijacking",))))
    engine.run()
    assert job.completion.text == "hijacking" and job.completion.tokens == 9
    assert len(steps) <= 2


def test_forced_tokens_and_a_scored_prompt_do_not_disturb_each_other(attention):
    constraint = Constraint("choices", ("hijacking",))
    request = Request("abcabd", 20, constraint=constraint, prompt_logprobs=True)
    (completion,) = alone(attention, [request], sizes=(1,))
    (free,) = alone(attention, [replace(request, constraint=None)], sizes=(1,))
    assert completion.text == "hijacking"
    assert [score.token for score in completion.prompt_logprobs] == [
        score.token for score in free.prompt_logprobs
    ]
