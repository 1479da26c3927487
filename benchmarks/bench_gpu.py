"""Compares the speed of training and decoding on a GPU with that of PyTorch, on the same models.
Each row of the table `ROWS` is a part of `gpu_run.py`.

Measuring PyTorch needs a PyTorch build with CUDA. It runs eagerly and compiled (`sides.py`); the
faster one counts. If memory allows (`together`), all of them are measured alternately.

`mfu` is as in `training/flops.py`. `floor_share` is the shortest possible time of a decoding step,
in which the weights and the cache are read once at the full memory bandwidth, divided by the
measured time. `peak_bytes` is the peak memory of the arrays.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.findings import Findings, expect
from benchmarks.measuring import Side
from benchmarks.sides import SIDES, measure

LLAMA_1B = {
    "kind": "llama", "width": 2048, "depth": 16, "heads": 32, "kv_heads": 8, "hidden": 8192,
    "vocabulary": 128_256,
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "gpt2_124m": {
        "kind": "gpt2", "width": 768, "depth": 12, "heads": 12, "vocabulary": 50_304,
        "length": 1024, "batch": 16, "together": True,
    },
    "llama_1b": LLAMA_1B | {"length": 4096, "batch": 2, "together": False},
    "lstm_2x650": {
        "kind": "lstm", "width": 650, "depth": 2, "vocabulary": 10_000, "length": 35, "batch": 128,
        "together": True,
    },
    "decode_1b_batch_1": LLAMA_1B | {
        "decode": 128, "length": 1024, "batch": 1, "together": False,
    },
    "decode_1b_batch_32": LLAMA_1B | {
        "decode": 128, "length": 1024, "batch": 32, "together": False,
    },
}  # fmt: skip
TOY_LLAMA = {
    "kind": "llama", "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64,
    "vocabulary": 67, "length": 16, "batch": 2, "together": False,
    "dtype": "float32",
}  # fmt: skip
TOY_ROWS: dict[str, dict[str, Any]] = {
    "gpt2_124m": {
        "kind": "gpt2", "width": 32, "depth": 2, "heads": 2, "vocabulary": 67, "length": 16,
        "batch": 2, "together": True, "dtype": "float32",
    },
    "llama_1b": TOY_LLAMA,
    "decode_1b_batch_1": TOY_LLAMA | {"decode": 4, "length": 8},
}  # fmt: skip
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest allowed relative difference between the first losses of Triform and PyTorch."""

TURNS, TURN_SECONDS = 4, 2.5


def figures(row: dict[str, Any], sides: dict[str, Side]) -> dict[str, Any]:
    """Return the results of a row: throughput, ratio to PyTorch, first losses, and shares of the
    GPU's peak rates."""
    ours = sides["triform"]
    tokens = row["batch"] * row.get("decode", row["length"])
    found: dict[str, Any] = {"batch": row["batch"], "length": row["length"], **ours.facts}
    rates = {}
    for name, side in sides.items():
        if side.failed:
            found[f"{name}_failed"] = side.failed
        else:
            rates[name] = tokens / side.step_seconds
            found[f"{name}_tokens_per_second"] = round(rates[name], 1)
            if side.peak_bytes is not None:
                found[f"{name}_peak_bytes"] = side.peak_bytes
    peers = {name: rate for name, rate in rates.items() if name != "triform"}
    best = max(peers, key=peers.get, default=None)
    found["torch"] = next((s.facts["torch"] for s in sides.values() if "torch" in s.facts), None)
    found["best_torch"], found["ratio"] = best, None
    if best and "triform" in rates:
        found["ratio"] = round(rates["triform"] / peers[best], 3)
        first = zip(ours.first[:3], sides[best].first[:3], strict=True)
        found["first_results"] = [[round(one, 6), round(other, 6)] for one, other in first]
    for name, rate in rates.items():
        if "decode" in row and ours.facts.get("peak_bandwidth"):
            read = 2 * (ours.facts["parameters"] + cache_numbers(row))
            floor = read / ours.facts["peak_bandwidth"]
            found[f"{name}_floor_share"] = round(floor * rate / row["batch"], 3)
        elif "decode" not in row and ours.facts.get("peak_flops"):
            mfu = rate * ours.facts["flops_per_token"] / ours.facts["peak_flops"]
            found[f"{name}_mfu"] = round(mfu, 4)
    return found


def cache_numbers(row: dict[str, Any]) -> int:
    """Return the number of elements in the key/value cache, which a decoding step reads."""
    head_dim = row["width"] // row["heads"]
    return 2 * row["depth"] * row["batch"] * row["length"] * row["kv_heads"] * head_dim


def summary(found: dict[str, Any]) -> Iterator[str]:
    """Yield the results of a row as text: one text per side, then the ratio."""
    for side in SIDES:
        if f"{side}_tokens_per_second" in found:
            parts = [f"{side} {found[f'{side}_tokens_per_second']:,.0f} tokens/s"]
            if f"{side}_mfu" in found:
                parts.append(f"MFU {found[f'{side}_mfu']:.1%}")
            if f"{side}_floor_share" in found:
                parts.append(f"{found[f'{side}_floor_share']:.1%} of the floor")
            if f"{side}_peak_bytes" in found:
                parts.append(f"{found[f'{side}_peak_bytes'] / 2**30:.2f} GiB")
            yield ", ".join(parts)
        elif f"{side}_failed" in found:
            yield f"{side} failed: {found[f'{side}_failed']}"
    if found["ratio"]:
        yield f"ours / {found['best_torch']} PyTorch {found['ratio']:.2f}"


def measured(part: Findings, name: str) -> None:
    """Measure a row, as a part of `gpu_run.py`. Check that Triform and PyTorch both ran, and that
    their first losses agree."""
    row = (TOY_ROWS if part.toy else ROWS)[name]
    sides = SIDES if part.torch else SIDES[:1]
    turns, seconds = (1, 0.0) if part.toy else (TURNS, TURN_SECONDS)

    def check() -> str:
        found = figures(row, measure(row, sides, turns=turns, seconds=seconds))
        part.note(**found)
        line = "; ".join(summary(found))
        expect("triform_failed" not in found and (found["best_torch"] or not part.torch), line)
        if "decode" not in row:
            tolerance = TOLERANCE[row.get("dtype", "bfloat16")]
            for ours, theirs in found.get("first_results", ()):
                expect(abs(ours / theirs - 1) <= tolerance, f"losses {ours} and {theirs}; {line}")
        return line

    part.check(f"batch {row['batch']} × {row['length']}", check)
