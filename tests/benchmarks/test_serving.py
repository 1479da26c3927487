"""`serving.py` at toy size: every part runs against a real server; and its checks can fail."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving, serving_sigterm, serving_soak, serving_throughput
from benchmarks.serving_client import Answer, Ask, Told
from configs.errors import UsageError
from data.codecs.tokenizers import Tokenizer

WORKDIR = Path(__file__).parents[1] / "golden/workdirs/recurrence_text"


@pytest.mark.timeout(1800)  # It starts five servers.
def test_every_part_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "serving.json"
    flags = ("--toy", "--force", "--threads=1", "--rounds=2", f"--out={out}")
    serving.main([*flags, f"--workdir={WORKDIR}"])
    found = json.loads(out.read_text())
    assert found["machine"]["versions"]["jax"] and found["load"]["forced"]

    sides = found["throughput"]["sides"]
    assert [*sides] == ["engine", "engine_streamed", "http", "http_streamed"]
    assert all(side["tokens_per_second"] > 0 for side in sides.values())
    assert sides["engine"]["of_engine"] == sides["engine_streamed"]["of_mode"] == 1
    assert sides["http"]["client_cpu_share"] > 0 and sides["http"]["server_cpu_share"] > 0
    first = sides["http_streamed"]["first"]
    assert 0 < first["p50_ms"] <= first["p99_ms"] and "first" not in sides["http"]

    soak = found["soak"]
    assert {"text", "text, streamed", "scores", "leaves", "bad"} <= soak["kinds"].keys()
    for its in soak["kinds"].values():
        good = its.get("answered", 0) + its.get("left", 0)
        assert good and good + its.get("refused", 0) == its["sent"]
    assert soak["memory_mib"]["last_third"] > 100
    assert [text for text in soak["failures"] if "memory grew" not in text] == []

    fairness = found["fairness"]
    assert fairness["ratio"] > 0 and fairness["alone"]["answered"] > 0

    rounds = found["sigterm"]["rounds"]
    assert [its["drain_seconds"] for its in rounds] == [30, 0.2]
    assert all(its["status"] == 0 and not its["lost"] and its["answered"] for its in rounds)
    assert found["sigterm"]["failures"] == []

    printed = capsys.readouterr().out
    assert "| `http_streamed` |" in printed and json.loads(printed.splitlines()[-1]) == found


def test_an_unknown_part_is_told():
    with pytest.raises(UsageError, match="--part=speed: choose from throughput, soak, "):
        serving.main(["--part=speed"])


def answer(**fields: Any) -> Answer:
    expected = fields.pop("expected", 200)
    ask = Ask("text", "/", b"", expected=expected, leaves=fields.pop("leaves", False))
    return Answer(ask, fields.pop("sent_at", 0.0), **fields)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"status": 200, "is_complete": True}, "answered"),
        ({"status": 200, "first": 0.1}, "failed"),
        ({"status": 200, "first": 0.1, "leaves": True}, "left"),
        ({"status": 404, "is_complete": True, "expected": 404}, "answered"),
        ({"status": 400, "is_complete": True, "expected": 404}, "failed"),
        ({"status": 429, "is_complete": True, "says_retry": True}, "refused"),
        ({"status": 429, "is_complete": True}, "failed"),
        ({"status": 503, "is_complete": True, "says_retry": True}, "retry"),
        ({"status": 503, "is_complete": True}, "failed"),
        ({"status": 200, "says_retry": True, "error": "stopping"}, "retry"),
        ({"error": "ConnectionResetError"}, "failed"),
    ],
)
def test_what_became_of_a_request(fields, outcome):
    assert answer(**fields).outcome == outcome


def test_a_request_without_an_answer_is_lost_if_it_was_sent_before_the_signal():
    told = Told([answer(sent_at=1.0), answer(sent_at=3.0), answer(sent_at=3.0, status=200)])
    found = serving_sigterm.outcomes(told, stopped_at=2.0)
    assert (found["not_accepted"], found["lost"], len(found["failures"])) == (1, 2, 2)


def test_other_answers_than_refusals_are_failures_of_a_soak():
    good = answer(status=200, is_complete=True)
    full = answer(status=429, is_complete=True, says_retry=True)
    told = Told([good, full, answer(status=500, is_complete=True)] + [answer(error="reset")] * 2)
    assert serving_soak.failed(told) == [
        "2 × text: status 0, reset",
        "1 × text: status 500, wrong status",
    ]
    kinds = serving_soak.by_kind(told)["text"]
    assert (kinds["sent"], kinds["answered"], kinds["refused"], kinds["failed"]) == (5, 1, 1, 3)


def test_values_are_sampled_until_the_end(monkeypatch):
    monkeypatch.setattr(serving_soak, "SAMPLE_SECONDS", 0.0)
    running: Future[None] = Future()
    values = iter(range(5))

    def value() -> float:
        if (now := next(values)) == 3:
            running.set_result(None)
        return now

    assert serving_soak.sampled(running, value) == [0, 1, 2, 3]


def test_texts_have_known_tokens_alone_and_all_lengths():
    tokenizer = Tokenizer.load(WORKDIR / "tokenizer.json")
    texts = serving_throughput.texts_of(tokenizer, 4, 3, prompts=(3, 5), new=(6, 7))
    assert len(texts.streams) == 4 and {len(stream) for stream in texts.streams} == {3}
    pairs = [(len(prompt), new) for stream in texts.streams for prompt, new in stream]
    assert sorted(pairs) == sorted([(3, 6), (5, 6), (3, 7), (5, 7)] * 3)
    assert texts.tokens == 6 * 6 + 6 * 7
    for stream in texts.streams:
        for prompt, _ in stream:
            assert tokenizer.unknown_id not in tokenizer.encode(prompt)
