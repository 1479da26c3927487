"""Compares the speed of decoding with that of `transformers` and CTranslate2.

python benchmarks/decoding.py [--row=ROW ...] [--side=SIDE ...] [--threads=N] [--turns=5]
                              [--seconds=3] [--soak=N] [--folder=DIR] [--out=FILE] [--force] [--toy]

A Llama of about 30 million parameters is written as a folder of `transformers`; each side loads its
weights (`decoding_sides.py`). In float32, all must generate the same greedy tokens, up to
near-ties. Then the sides are timed alternately; a side's speed is the median of its turns. No text
ends early, and no side reuses the cache of an earlier prompt. Sides with `int8` have quantized
weights. In rows of 16 texts:

- `transformers` pads the prompts and generates as many tokens for each text as for the longest;
  `transformers_continuous` is its continuous batching;
- `ctranslate2` puts all texts into one batch; each text leaves it when it is complete. `_by_length`
  makes a batch for each length of prompts. `_async` makes a request for each text, and has a worker
  for each thread.

The rows `lookup_...` compare Triform with and without speculation, which guesses tokens from the
text so far. Their texts are greedy. They may have all tokens (such texts seldom repeat themselves),
only three different tokens, or only one.

The table also has the milliseconds to the first token and between deliveries of tokens (50th and
99th percentile), and the mean number of tokens in a delivery. Row `warm_up` measures how long
Triform's engine takes to compile, and counts the programs that are compiled later. Row `masks`
measures the cost of JSON schemas with a vocabulary of 50,000 tokens, for one text and for 16.
`--soak=N` measures the memory of Triform's process over N requests.

Needs the `bench` extra; without it, only Triform is measured. The command refuses to measure on a
busy machine, unless --force is given; the result then says so. The last line is the result as JSON;
--out also writes it to a file. --folder keeps the models for the next time.
"""

import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import llama_folder
from benchmarks.busy import LARGEST_SPREAD, calibrate, check_idle
from benchmarks.decoding_sides import Batch, Written, build, takes_weights_dtype
from benchmarks.engine_runs import masks, soak, warm_up
from benchmarks.measuring import Side, alternate, in_own_process, print_head, print_row
from configs.errors import UsageError
from configs.files import write_durably
from configs.reading.command_line import Flag, parse_command_line, run_verb
from data.codecs.tokenizers import Tokenizer
from reporting.report.machine import environment

SINGLE = ("triform", "triform_int8", "transformers", "ctranslate2", "ctranslate2_int8")
SEVERAL = (
    *SINGLE,
    "transformers_continuous",
    "ctranslate2_by_length",
    "ctranslate2_int8_by_length",
    "ctranslate2_async",
    "ctranslate2_int8_async",
)

LOOK_UP = ("triform", "triform_lookup")


@dataclass(frozen=True)
class Row:
    """Texts that are generated at the same time: the numbers of tokens of their prompts, and the
    numbers of new tokens.

    allowed: how many different tokens the texts may have; 0: all.
    looks_up: whether sides with and without guessed tokens are compared, in place of the peers.
    """

    prompts: tuple[int, ...]
    new: tuple[int, ...]
    sampled: bool = False
    allowed: int = 0
    looks_up: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        if self.looks_up:
            return LOOK_UP
        return SINGLE if len(self.new) == 1 else SEVERAL


def every_pair(prompts: Sequence[int], new: Sequence[int], *, sampled: bool = False) -> Row:
    """Return a row with a text for each pair of lengths, in a random order."""
    pairs = [(a, b) for a in prompts for b in new]
    order = np.random.default_rng(0).permutation(len(pairs))
    lengths, counts = zip(*(pairs[index] for index in order), strict=True)
    return Row(lengths, counts, sampled)


MIXED = ((32, 64, 128, 256), (64, 128, 192, 256))
ROWS = {
    "single_32_64": Row((32,), (64,)),
    "single_32_256": Row((32,), (256,)),
    "single_256_64": Row((256,), (64,)),
    "single_32_64_sampled": Row((32,), (64,), sampled=True),
    "mixed_16": every_pair(*MIXED),
    "mixed_16_sampled": every_pair(*MIXED, sampled=True),
    "lookup_repeating": Row((32,), (256,), allowed=1, looks_up=True),
    "lookup_three_tokens": Row((32,), (256,), allowed=3, looks_up=True),
    "lookup_elsewhere": Row((32,), (256,), looks_up=True),
}
TOY_ROWS = {
    "single_32_64": Row((8,), (8,)),
    "mixed_16": every_pair((4, 8), (6, 12)),
    "mixed_16_sampled": every_pair((4, 8), (6, 12), sampled=True),
    "lookup_repeating": Row((8,), (24,), allowed=1, looks_up=True),
}
WARM_UP, MASKS = "warm_up", "masks"
ALL_ROWS = (*ROWS, MASKS, WARM_UP)
SETTLE_SECONDS = 0.5
"""Seconds to wait before a turn, because threads of the previous side may still use a CPU each
while they wait for work."""

NEAR_TIE = 1e-3
"""Largest difference between two logits at which rounding may reverse their order."""

FLAGS = (
    Flag(
        "row",
        f"rows to measure: {', '.join(ALL_ROWS)} (default: all)",
        repeatable=True,
    ),
    Flag("side", "sides to measure, ours among them (default: all of a row)", repeatable=True),
    Flag("threads", "threads of each side (default: all CPUs)", type=int, minimum=1),
    Flag("turns", "turns of each side", type=int, default=5, minimum=1),
    Flag("seconds", "length of a turn", type=float, default=3.0, minimum=0),
    Flag("soak", "requests of the measurement of memory", type=int, default=0, minimum=0),
    Flag("folder", "a folder in which the models are kept"),
    Flag("out", "a file for the result, as JSON"),
    Flag("force", "measure on a busy machine too", switch=True),
    Flag("toy", "small models and short texts", switch=True),
)
HEAD = (
    "row", "side", "tokens/s", "ours / side",
    "first, ms", "99th", "between, ms", "99th", "tokens",
)  # fmt: skip
COLUMNS = (
    "first_p50_ms", "first_p99_ms", "between_p50_ms", "between_p99_ms", "tokens_per_delivery",
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Measure the rows; print the tables and the result."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    rows = TOY_ROWS if arguments.toy else ROWS
    names = arguments.row or (*rows, MASKS, WARM_UP)
    for name in names:
        if name not in (*rows, MASKS, WARM_UP):
            raise UsageError(f"--row={name}: choose from {', '.join((*rows, MASKS, WARM_UP))}")
    for side in arguments.side:
        if side not in (*SEVERAL, *LOOK_UP):
            known = dict.fromkeys((*SEVERAL, *LOOK_UP))
            raise UsageError(f"--side={side}: choose from {', '.join(known)}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    threads = arguments.threads or len(os.sched_getaffinity(0))
    load = check_idle(force=arguments.force)
    machine = in_own_process(environment) | {"command": shlex.join(sys.argv)}
    result: dict[str, Any] = {"machine": machine, "load": load, "threads": threads, "rows": {}}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(arguments.folder or temporary)
        measured = [name for name in names if name in rows]
        if measured:
            prepare(root / "llama", llama_folder.TOY if arguments.toy else llama_folder.ABOUT_30M)
            print_head(HEAD)
        for name in measured:
            row = measure(name, rows[name], root / "llama", threads, arguments)
            result["rows"][name] = row
        if MASKS in names:
            large = llama_folder.TOY if arguments.toy else llama_folder.LARGE_VOCABULARY
            prepare(root / "large", large, peers=False)
            result["masks"] = measure_masks(root / "large", threads, arguments.turns)
        if WARM_UP in names or arguments.soak:
            small = llama_folder.TOY if arguments.toy else llama_folder.PYTHON_STDLIB
            prepare(root / "small", small, peers=False)
            result |= measure_engine(root / "small", threads, arguments.soak, WARM_UP in names)
    text = json.dumps(result)
    print(text)
    if arguments.out:
        write_durably(Path(arguments.out), text)


def has(side: str) -> bool:
    """Return whether the libraries of a side are installed and Triform supports the side."""
    library = side.partition("_")[0]
    if library == "triform":
        return "int8" not in side or takes_weights_dtype()
    needed = ("torch", "transformers", library)  # CTranslate2's converter needs all of them.
    return all(map(find_spec, needed))


def prepare(root: Path, shape: llama_folder.Shape, *, peers: bool = True) -> None:
    """Fill the folder `root` with a model of this `shape` for each side, unless it has them
    already.

    peers: whether to convert the model for the peers.
    """
    if not (root / "folder/model.safetensors").exists():
        characters = 100_000 if shape == llama_folder.TOY else None
        llama_folder.write_folder(root / "folder", shape, corpus_characters=characters)
    if not (root / "workdir/checkpoints/1").exists():
        llama_folder.write_workdir(root / "folder", root / "workdir", shape)
    converted = (root / "ctranslate2/model.bin").exists()
    if peers and has("ctranslate2") and not converted:
        llama_folder.convert_for_ctranslate2(root / "folder", root / "ctranslate2")


# ---- Rows.


def measure(
    name: str, row: Row, root: Path, threads: int, arguments: SimpleNamespace
) -> dict[str, Any]:
    """Measure the sides of a row alternately, print the results and return them."""
    tokenizer = Tokenizer.load(root / "folder/tokenizer.json")
    prompts = llama_folder.prompts_of(tokenizer, row.prompts)
    ids = tuple(tuple(tokenizer.encode(prompt).tolist()) for prompt in prompts)
    batch = Batch(tuple(prompts), ids, row.new, row.sampled, row.allowed)
    wanted = {"triform", *(arguments.side or row.sides)}
    names = [side for side in row.sides if side in wanted and has(side)]
    sides = {}
    for side in names:
        how = {"warm_up": 2, "turn_seconds": arguments.seconds}
        sides[side] = Side(build, side, root, batch, threads, **how)
    found: dict[str, Any] = {"greedy": check_tokens(sides)}
    pace = []
    working = [side for side in names if not sides[side].failed]
    for side in alternate(working, arguments.turns):
        time.sleep(SETTLE_SECONDS)
        pace.append(calibrate())
        sides[side].turn()
    for side in working:
        sides[side].end()
    found["calibration_spread"] = max(pace) / min(pace)
    found["sides"] = {side: figures(alive, row) for side, alive in sides.items()}
    found["ratios"] = ratios(found["sides"])
    show(name, found)
    return found


def check_tokens(sides: Mapping[str, Side]) -> dict[str, str]:
    """Compare the greedy tokens of each float32 side with those of `transformers`.

    Raises `SystemExit` if they differ where no near-tie explains it. Returns nothing for rows
    without the margins of `transformers`.
    """
    reference = sides.get("transformers")
    if reference is None or "margins" not in reference.facts:
        return {}
    margins, said = reference.facts["margins"], {}
    expected = reference.first[0].tokens[0]
    for name, side in sides.items():
        if side.failed or side is reference:
            continue
        tokens = side.first[0].tokens[0]
        pairs = zip(tokens, expected, strict=True)
        first = next((index for index, (a, b) in enumerate(pairs) if a != b), None)
        if first is None:
            said[name] = "equal"
        else:
            said[name] = f"differs at token {first}, chosen by {margins[first]:.1e}"
            if "int8" not in name and margins[first] > NEAR_TIE:
                raise SystemExit(f"decoding.py: {name} does not write the same: {said[name]}")
    return said


def figures(side: Side, row: Row) -> dict[str, Any]:
    """Return the results of a side: its speed and, if it reports when tokens arrive, latencies in
    ms."""
    if side.failed:
        return {"failed": side.failed}
    runs: list[Written] = side.results
    if any(list(map(len, run.tokens)) != list(row.new) for run in runs):
        raise SystemExit("decoding.py: a text does not have its number of tokens")
    texts = [times for run in runs for times in run.times]
    found = {
        "tokens_per_second": sum(row.new) / side.step_seconds,
        "turns_seconds": side.seconds,
        "version": side.facts["version"],
    }
    if not texts:
        return found
    firsts = [times[0][0] for times in texts]
    between = [b[0] - a[0] for times in texts for a, b in pairwise(times)]
    for name, seconds in (("first", firsts), ("between", between)):
        for percent in (50, 99):
            found[f"{name}_p{percent}_ms"] = 1e3 * float(np.percentile(seconds or [0.0], percent))
    found["tokens_per_delivery"] = sum(row.new) * len(runs) / sum(map(len, texts))
    return found


def ratios(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return Triform's speed relative to each peer's fastest variant, in float32 and in int8."""
    speeds = {name: side.get("tokens_per_second", 0.0) for name, side in sides.items()}
    found = {}
    for ours, peer, is_int8 in (
        ("triform", "transformers", False),
        ("triform", "ctranslate2", False),
        ("triform_int8", "ctranslate2", True),
    ):
        theirs = [
            speed
            for name, speed in speeds.items()
            if name.startswith(peer) and ("int8" in name) == is_int8
        ]
        if speeds.get(ours) and max(theirs, default=0.0):
            found[f"{ours} / {peer}{'_int8' * is_int8}"] = speeds[ours] / max(theirs)
    return found


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print the table rows of a row, and its other results."""
    sides = found["sides"]
    ours = sides["triform"].get("tokens_per_second", 0.0)
    for side, its in sides.items():
        if "failed" in its:
            print(f"decoding.py: {side} of {name} failed: {its['failed']}", file=sys.stderr)
            continue
        speed = its["tokens_per_second"]
        cells = [f"{its[column]:.1f}" if column in its else "" for column in COLUMNS]
        print_row([f"`{name}`", f"`{side}`", f"{speed:,.0f}", f"{ours / speed:.2f}", *cells])
    if found["calibration_spread"] > LARGEST_SPREAD:
        print(
            f"decoding.py: the machine was not steady in {name}: the same computation took up to "
            f"{found['calibration_spread']:.2f} times as long",
            file=sys.stderr,
        )


# ---- The engine alone.


def measure_masks(root: Path, threads: int, turns: int) -> list[dict[str, Any]]:
    """Measure the cost of masks with the model in the folder `root`, which `prepare` filled."""
    found = []
    for texts in (1, 16):
        its = in_own_process(masks, root, threads, texts, turns)
        found.append(asdict(its))
        print(
            f"masks of {its.vocabulary:,} tokens, texts: {texts}; {its.mask_ms:.3f} ms for a step "
            f"of {its.step_ms:.1f} ms: {its.share:.3f} of it; speed {its.speed:.2f} times that "
            "without a schema"
        )
    return found


def measure_engine(root: Path, threads: int, requests: int, with_warm_up: bool) -> dict[str, Any]:
    """Measure the warm-up, cold and with cached programs, and the memory over `requests` requests.

    root: the folder that `prepare` filled.
    requests: 0 measures no memory.
    with_warm_up: whether to measure the warm-up.
    """
    found: dict[str, Any] = {}
    if with_warm_up:
        with tempfile.TemporaryDirectory() as cache:
            for start in ("cold", "cached"):
                its = in_own_process(warm_up, root, Path(cache), threads)
                found[f"warm_up_{start}"] = asdict(its)
                print(
                    f"warm-up, {start}: {its.seconds:.1f} s, {its.programs} programs; compiled in "
                    f"{its.requests} mixed requests after it: {its.compiled_after}"
                )
    if requests:
        memory = in_own_process(soak, root, threads, requests)
        found["soak"] = asdict(memory)
        print(
            f"memory over {requests:,} requests: {memory.middle_mib:.1f} MiB after half of them, "
            f"{memory.end_mib:.1f} MiB at the end, largest difference in the second half "
            f"{memory.range_mib:.1f} MiB; {memory.requests_per_second:.0f} requests/s"
        )
    return found


if __name__ == "__main__":
    run_verb(main)
