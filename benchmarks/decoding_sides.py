"""Generates the same texts with Triform's engine, with `transformers` and with CTranslate2.

All start from the same folder (`llama_folder.py`) and use the same number of threads. No text ends
before it has its number of tokens. Triform's time includes the prompts' tokenization and the texts'
detokenization; the peers take and return token ids.
"""

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Work

TEMPERATURE, TOP_P = 0.8, 0.95
"""Settings of sampled texts."""

BAN = -100.0
"""Added to the logit of the end-of-text token; its negative is added to the logits of allowed
tokens."""


SMALLEST_ROOM = 128
"""Smallest number of tokens for which Triform's engine compiles programs, unless the context is
shorter."""


@dataclass(frozen=True)
class Batch:
    """Texts to generate at the same time: prompts, their token ids, and numbers of new tokens.

    allowed: in Triform, the texts have at most this many different tokens; 0: any.
    """

    prompts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    new: tuple[int, ...]
    sampled: bool = False
    allowed: int = 0


@dataclass
class Written:
    """The texts of a run: the tokens of each, and the times at which they arrived.

    times: for each text, a pair (seconds since the start, tokens so far) for each delivery; empty
    for sides without a callback.
    """

    tokens: list[list[int]]
    times: list[list[tuple[float, int]]] = field(default_factory=list)


class Clock:
    """Records when the tokens of each text arrive."""

    def __init__(self, batch: Batch):
        self._new, self._began = batch.new, time.perf_counter()
        self.times: list[list[tuple[float, int]]] = [[] for _ in batch.new]

    def note(self, row: int, count: int) -> None:
        """Record the time at which text `row` has `count` tokens, if it had fewer before."""
        count, times = min(count, self._new[row]), self.times[row]
        if count > (times[-1][1] if times else 0):
            times.append((time.perf_counter() - self._began, count))


def build(side: str, root: Path, batch: Batch, threads: int) -> Work:
    """Build a side in its own process. root: the folder that `decoding.prepare` filled."""
    os.environ |= {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
    library, _, kind = side.partition("_")
    make = {"triform": triform, "transformers": transformers, "ctranslate2": ctranslate2}[library]
    write, metadata = make(kind, root, batch, threads)
    return Work(lambda runs: [write() for _ in range(runs)], metadata, lambda: None)


# ---- Our side.


def takes_weights_dtype() -> bool:
    """Return whether `load_model` can quantize weights."""
    from inference.loading import load_model

    return "weights_dtype" in inspect.signature(load_model).parameters


def make_engine(
    workdir: Path,
    weights_dtype: str = "",
    *,
    cache: Path | None = None,
    prefix_bytes: int = 0,
    sizes: Sequence[int] = (1, 4, 16),
) -> Any:
    """Return an engine for the workdir's model, as a server has it: with every option compiled.

    weights_dtype: `int8`, or empty for the dtype of the checkpoint.
    cache: the folder of compiled programs; by default that of the workdir's configuration.
    prefix_bytes: size of the prefix cache in bytes; 0 for no cache.
    sizes: numbers of slots.
    """
    from configs.reading.saved import read_config
    from data.cache import cache_dir
    from parallel.environment import enable_compilation_cache, set_environment

    config = read_config(workdir)
    set_environment(config)
    enable_compilation_cache(cache or cache_dir(config.data))
    from flax import nnx

    from inference.engine.engine import Engine
    from inference.engine.prefix_cache import PrefixCache
    from inference.engine.programs import ALL_OPTIONS, Programs
    from inference.loading import load_model

    settings: dict[str, Any] = {"weights_dtype": weights_dtype} if weights_dtype else {}
    model = load_model(workdir, **settings)
    definition, tokenizer = model.restored.model_def, model.tokenizer
    assert tokenizer is not None
    graph, params = nnx.split(model.module)
    programs = Programs.of(
        graph, tokenizer, mesh=definition.mesh, rules=definition.rules, options=ALL_OPTIONS
    )
    module: Any = model.module  # a model of tokens
    context, rooms = None, None
    if module.has_bounded_context:
        context = definition.data_spec.require("max_length")
        rooms = (*(room for room in (context // 4, context // 2) if room >= SMALLEST_ROOM), context)
    prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
    return Engine(
        programs,
        params,
        tokenizer,
        context=context,
        sizes=sizes,
        rooms=rooms,
        prefix_cache=prefixes,
    )


def triform(
    kind: str, root: Path, batch: Batch, threads: int
) -> tuple[Callable[[], Written], dict[str, Any]]:
    """Build Triform's engine, without prefix reuse: each run reads its prompts anew. kind: `int8`
    for quantized weights, `lookup` for speculation, or empty."""
    engine = make_engine(root / "workdir", kind if kind == "int8" else "")
    import jax

    from data.codecs.tokenizers import Tokenizer
    from inference.requests import Request, Sampling

    end_id = Tokenizer.load(root / "folder/tokenizer.json").end_id
    drawn = {"temperature": TEMPERATURE, "top_p": TOP_P} if batch.sampled else {"temperature": 0}
    allowed = sorted({*batch.ids[0]} - {end_id})[: batch.allowed]
    bias = ((end_id, BAN), *((token, -BAN) for token in allowed))
    requests = [
        Request(
            prompt,
            max_tokens=new,
            speculation=kind == "lookup",
            sampling=Sampling(seed=row, logit_bias=bias, **drawn),
        )
        for row, (prompt, new) in enumerate(zip(batch.prompts, batch.new, strict=True))
    ]

    def write() -> Written:
        clock = Clock(batch)
        jobs: list[Any] = []
        for row, request in enumerate(requests):

            def hear(piece: str, completion: Any, row: int = row) -> None:
                clock.note(row, jobs[row].written)

            jobs.append(engine.submit(request, hear))
        engine.run()
        return Written([one.ids[one.prompt_tokens :] for one in jobs], clock.times)

    return write, {"version": f"jax {jax.__version__}"}


# ---- transformers.


def transformers(
    kind: str, root: Path, batch: Batch, threads: int
) -> tuple[Callable[[], Written], dict[str, Any]]:
    """Build `transformers`. kind: `continuous` for its continuous batching; otherwise `generate`
    with prompts padded on the left, which generates as many tokens for each as for the longest."""
    import torch
    import transformers as library

    torch.set_num_threads(threads)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    model = library.AutoModelForCausalLM.from_pretrained(root / "folder", dtype=torch.float32)
    model.eval()
    make = continuous_writer if kind == "continuous" else padded_writer
    write, metadata = make(model, batch)
    versions = f"transformers {library.__version__}, torch {torch.__version__}"
    return write, metadata | {"version": versions}


def drawn_fields(batch: Batch) -> dict[str, Any]:
    """Return the arguments with which `transformers` draws the tokens of the texts."""
    if not batch.sampled:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}


def padded_writer(model: Any, batch: Batch) -> tuple[Callable[[], Written], dict[str, Any]]:
    """Return a function that calls `generate`, and the margin by which it chose each token of a
    single greedy text: the difference of the two leading logits."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    longest, most = max(map(len, batch.ids)), max(batch.new)
    rows = [[0] * (longest - len(ids)) + list(ids) for ids in batch.ids]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch.ids]
    fields = {
        "attention_mask": torch.tensor(mask),
        "max_new_tokens": most,
        "min_new_tokens": most,
        "pad_token_id": 0,
        **drawn_fields(batch),
    }
    inputs = torch.tensor(rows)

    class Streamer(BaseStreamer):
        """Receives the prompts first, then one token of each text at a time."""

        def __init__(self) -> None:
            self.clock, self.count = Clock(batch), -1

        def put(self, value: Any) -> None:
            self.count += 1
            for row in range(len(batch.new) if self.count else 0):
                self.clock.note(row, self.count)

        def end(self) -> None:
            pass

    @torch.inference_mode()
    def write() -> Written:
        streamer = Streamer()
        output = model.generate(inputs, streamer=streamer, **fields)
        tokens = [
            row[:new] for row, new in zip(output[:, longest:].tolist(), batch.new, strict=True)
        ]
        return Written(tokens, streamer.clock.times)

    if len(batch.ids) > 1 or batch.sampled:
        return write, {}
    with torch.inference_mode():
        scored = model.generate(inputs, output_scores=True, return_dict_in_generate=True, **fields)
    leading = [scores[0].topk(2).values.tolist() for scores in scored.scores]
    return write, {"margins": [first - second for first, second in leading]}


PAGE = 32


def continuous_writer(model: Any, batch: Batch) -> tuple[Callable[[], Written], dict[str, Any]]:
    """Return a function that sends the texts to a manager of continuous batching, whose cache
    has room for all of them. Blocks are not shared, so that each run reads its prompts anew."""
    import atexit

    from transformers import ContinuousBatchingConfig, GenerationConfig

    pages = [
        -(-(len(ids) + new) // PAGE) + 1 for ids, new in zip(batch.ids, batch.new, strict=True)
    ]
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            eos_token_id=-1, max_new_tokens=max(batch.new), **drawn_fields(batch)
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=sum(pages),
            max_batch_tokens=512,
            max_requests_per_batch=len(batch.new),
            allow_block_sharing=False,
        ),
    )
    manager.start()
    atexit.register(manager.stop, block=True)
    runs = 0

    def write() -> Written:
        nonlocal runs
        runs += 1
        clock = Clock(batch)
        tokens: list[list[int]] = [[] for _ in batch.new]
        for row, (ids, new) in enumerate(zip(batch.ids, batch.new, strict=True)):
            name = f"{runs}-{row}"
            manager.add_request(list(ids), request_id=name, max_new_tokens=new, streaming=True)
        left = len(batch.new)
        while left:
            result = manager.get_result(timeout=60)
            if result is None or result.error:
                raise RuntimeError(result.error if result else "continuous batching gave no result")
            row = int(result.request_id.partition("-")[2])
            tokens[row] = list(result.generated_tokens)
            clock.note(row, len(tokens[row]))
            left -= result.is_finished()
        return Written(tokens, clock.times)

    return write, {}


# ---- CTranslate2.


def ctranslate2(
    kind: str, root: Path, batch: Batch, threads: int
) -> tuple[Callable[[], Written], dict[str, Any]]:
    """Build CTranslate2. kind: words, joined by `_`.

    Each text leaves its batch when it is complete.

    - `int8`: quantized weights.
    - `by` (from `by_length`): only prompts of equal length share a batch. In a batch, CTranslate2
      reads only as many tokens at once as the shortest prompt has.
    - `async`: each text is a separate request; there are as many workers as threads.
    """
    import ctranslate2 as library

    words = kind.split("_")
    workers = threads if "async" in words else 1
    generator = library.Generator(
        str(root / "ctranslate2"),
        compute_type="int8" if "int8" in words else "float32",
        inter_threads=workers,
        intra_threads=max(threads // workers, 1),
    )
    names = token_names(root)
    prompts = [[names[token] for token in ids] for ids in batch.ids]
    fields: dict[str, Any] = {"include_prompt_in_result": False, "sampling_topk": 1}
    if batch.sampled:
        fields |= {"sampling_topk": 0, "sampling_topp": TOP_P, "sampling_temperature": TEMPERATURE}

    def write_each() -> Written:
        results = [
            generator.generate_batch(
                [prompt], max_length=new, min_length=new, asynchronous=True, **fields
            )
            for prompt, new in zip(prompts, batch.new, strict=True)
        ]
        return Written([result[0].result().sequences_ids[0] for result in results])

    def write_batch(rows: Sequence[int]) -> list[list[int]]:
        shortest = min(len(prompts[row]) for row in rows)
        most = max(len(prompts[row]) - shortest + batch.new[row] for row in rows)
        counts = [0] * len(rows)

        def hear(step: Any) -> bool:
            counts[step.batch_id] += 1
            return counts[step.batch_id] == batch.new[rows[step.batch_id]]

        results = generator.generate_batch(
            [prompts[row] for row in rows],
            max_length=most,
            min_length=most,
            callback=hear if len(rows) > 1 else None,
            **fields,
        )
        return [result.sequences_ids[0] for result in results]

    def write_batches() -> Written:
        lengths = {len(prompt) for prompt in prompts} if "by" in words else {None}
        tokens: list[list[int]] = [[] for _ in prompts]
        for length in lengths:
            rows = [row for row, ids in enumerate(prompts) if length in (None, len(ids))]
            for row, ids in zip(rows, write_batch(rows), strict=True):
                tokens[row] = ids
        return Written(tokens)

    write = write_each if "async" in words else write_batches
    return write, {"version": f"CTranslate2 {library.__version__}"}


def token_names(root: Path) -> dict[int, str]:
    """Return the name of each token by its id."""
    from data.codecs.tokenizers import Tokenizer

    tokenizer = Tokenizer.load(root / "folder/tokenizer.json")
    return {token_id: name for name, token_id in tokenizer.vocabulary().items()}
