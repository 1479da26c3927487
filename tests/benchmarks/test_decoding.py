"""`decoding.py` at toy size, beside the peers that are installed; and that its checks can fail."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import busy, decoding
from benchmarks.decoding_sides import Written
from benchmarks.engine_runs import random_requests
from benchmarks.llama_folder import TOY, prompts_of, write_folder
from configs.errors import UsageError
from data.codecs.tokenizers import Tokenizer


def measured(tmp_path, monkeypatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "decoding.json"
    flags = ("--toy", "--force", "--turns=1", "--seconds=0", "--threads=1", f"--out={out}")
    decoding.main([*flags, *arguments])
    return json.loads(out.read_text())


def test_sides_write_the_same_tokens_and_are_measured(tmp_path, monkeypatch, capsys):
    rows = ("--row=single_32_64", "--row=mixed_16", "--row=lookup_repeating")
    found = measured(tmp_path, monkeypatch, *rows)
    assert found["load"]["forced"] and found["machine"]["versions"]["jax"]
    for name, row in found["rows"].items():
        present = {side for side in decoding.TOY_ROWS[name].sides if decoding.has(side)}
        assert row["sides"].keys() == present and "triform" in present
        assert all(side["tokens_per_second"] > 0 for side in row["sides"].values())
        ours = row["sides"]["triform"]
        assert 0 < ours["first_p50_ms"] <= ours["first_p99_ms"]
    if decoding.has("transformers"):
        greedy = found["rows"]["single_32_64"]["greedy"]
        assert greedy["triform"] == "equal"
    printed = capsys.readouterr().out
    assert "| `mixed_16` | `triform` |" in printed and json.loads(printed.splitlines()[-1]) == found


def test_only_the_sides_that_are_named_are_measured(tmp_path, monkeypatch):
    found = measured(tmp_path, monkeypatch, "--row=single_32_64", "--side=triform_int8")
    assert found["rows"]["single_32_64"]["sides"].keys() == {"triform", "triform_int8"}
    with pytest.raises(UsageError, match=r"^--side=trifrom: choose from triform, "):
        measured(tmp_path, monkeypatch, "--side=trifrom")


def test_warm_up_and_memory_are_measured(tmp_path, monkeypatch):
    found = measured(tmp_path, monkeypatch, "--row=warm_up", "--soak=40")
    for start in ("cold", "cached"):
        assert found[f"warm_up_{start}"]["programs"] > 0
        assert found[f"warm_up_{start}"]["compiled_after"] == 0
    assert found["soak"]["requests"] == 40 and found["soak"]["end_mib"] > 0


def test_the_cost_of_masks_is_measured(tmp_path, monkeypatch):
    found = measured(tmp_path, monkeypatch, "--row=masks")["masks"]
    assert [its["texts"] for its in found] == [1, 16]
    for its in found:
        assert its["share"] == pytest.approx(its["mask_ms"] / its["step_ms"]) and its["speed"] > 0


def alive(tokens: list[int], **facts: Any) -> Any:
    return SimpleNamespace(failed=None, first=[Written([tokens])], facts=facts)


def test_a_side_that_writes_other_tokens_ends_the_measurement():
    peer = alive([1, 2, 3], margins=[1.0, 1e-4, 1.0])
    sides = {"transformers": peer, "triform": alive([1, 2, 3]), "ctranslate2": alive([1, 5, 5])}
    said = decoding.check_tokens(sides)
    assert said["triform"] == "equal" and said["ctranslate2"].startswith("differs at token 1")
    sides |= {"triform_int8": alive([4, 2, 3])}
    assert decoding.check_tokens(sides)["triform_int8"].startswith("differs at token 0")
    with pytest.raises(SystemExit, match="triform does not write the same: differs at token 2"):
        decoding.check_tokens(sides | {"triform": alive([1, 2, 4])})


def test_latencies_count_deliveries():
    run = Written([[7, 7, 7], [7]], [[(0.1, 1), (0.3, 3)], [(0.2, 1)]])
    side: Any = SimpleNamespace(
        failed=None, results=[run], seconds=[0.5], step_seconds=0.5, facts={"version": "one"}
    )
    row = decoding.Row((4, 4), (3, 1))
    found = decoding.figures(side, row)
    assert found["tokens_per_second"] == 8
    assert found["first_p50_ms"] == pytest.approx(150)
    assert found["between_p50_ms"] == pytest.approx(200)
    assert found["tokens_per_delivery"] == pytest.approx(4 / 3)
    with pytest.raises(SystemExit, match="does not have its number of tokens"):
        decoding.figures(side, replace(row, new=(3, 2)))


def test_a_busy_machine_is_refused(monkeypatch):
    monkeypatch.setattr(busy, "load_share", lambda: 0.0)
    monkeypatch.setattr(busy, "busy_share", lambda: 0.4)
    with pytest.raises(UsageError, match="busy: 40% of its CPU time"):
        busy.check_idle(force=False)
    assert busy.check_idle(force=True)["forced"]
    monkeypatch.setattr(busy, "busy_share", lambda: 0.01)
    busy.check_idle(force=False)


def test_an_unknown_row_is_told():
    with pytest.raises(UsageError, match="--row=double: choose from single_32_64"):
        decoding.main(["--row=double"])


def test_prompts_have_the_lengths_asked_for(tmp_path):
    write_folder(tmp_path / "folder", TOY, corpus_characters=50_000)
    tokenizer = Tokenizer.load(tmp_path / "folder/tokenizer.json")
    prompts = prompts_of(tokenizer, (3, 8, 8))
    assert [len(tokenizer.encode(prompt)) for prompt in prompts] == [3, 8, 8]
    assert len({*prompts}) == 3


def test_mixed_requests_use_every_setting():
    requests = list(random_requests(48, mixed=True))
    assert any(request.logprobs for request in requests)
    assert any(request.prompt_logprobs for request in requests)
    assert len({request.sampling.top_k for request in requests}) == 2
    assert all(request.prompt for request in requests)
