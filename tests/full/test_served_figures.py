"""Whatever `evaluate.py` measures of a model, the server's answers measure too."""

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import sacrebleu
import soundfile

import train
from configs.reading.saved import read_config
from data.sources import dates, digits, tones
from tests.golden.workdirs import DECODER, RUNS
from tests.serving.evaluated import batches, documents, figures, served_loss
from tests.serving.in_process import send_file
from tests.serving.servers import GOLDEN, ROOT, RunningServer, serving

PACKINGS = {
    "windows": {"data.cross_document_attention": "false"},
    "best_fit": {"data.packing": "best_fit"},
}
TEXTS = (
    "attention_text_averaged",
    "convolution_text",
    "hybrid_text",
    "recurrence_text",
    "rnn_text",
)

pytestmark = pytest.mark.timeout(1800)  # Some train a model first.


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of data are relative


@pytest.mark.parametrize("name", TEXTS)
def test_the_loss_of_each_kind_of_language_model(name, tmp_path, capsys):
    evaluated = figures(GOLDEN / name, capsys, "--split=validation")
    with serving(GOLDEN / name, tmp_path / "log") as server:
        loss, _ = served_loss(server, GOLDEN / name, "validation")
    assert loss == pytest.approx(evaluated["loss"], rel=1e-5)


@pytest.mark.parametrize("packing", PACKINGS)
def test_documents_packed_in_windows_are_served_one_by_one(packing, tmp_path, capsys):
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = (GOLDEN.parent / "text.txt").read_text().splitlines(keepends=True)
    for number, line in enumerate(line for line in lines[:60] if line.strip()):
        (texts / f"{number}.txt").write_text(line[: 3 + 5 * (number % 4)])
    workdir, (recipe, _) = tmp_path / "run", RUNS["attention_text"]
    fields = DECODER | PACKINGS[packing]
    fields |= {
        "data.path": str(texts),
        "data.validation_fraction": "0.5",
        "data.tokenizer.kind": "file",
        "data.tokenizer.path": str(GOLDEN / "attention_text/tokenizer.json"),
    }
    overrides = [f"--config.{name}={text}" for name, text in fields.items()]
    assert train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *overrides]) == 0
    evaluated = figures(workdir, capsys, "--split=validation")
    together = [[*documents({name: of[[row]] for name, of in batch.items()})]
                for batch in batches(workdir, "validation")
                for row in range(len(batch["tokens"]))]  # fmt: skip
    assert max(map(len, together)) > 1, "some window has several documents"
    with serving(workdir, tmp_path / "log") as server:
        loss, _ = served_loss(server, workdir, "validation")
    assert loss == pytest.approx(evaluated["loss"], rel=1e-5)


# ---- Texts, recordings and pictures, as a client sends them.


def evaluated(workdir: Path, tmp_path: Path, capsys) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the metrics of the split test, and the prediction for each of its examples."""
    file = tmp_path / "predictions"
    metrics = figures(workdir, capsys, "--split=test", f"--predictions={file}")
    return metrics, [json.loads(line) for line in file.read_text().splitlines()]


def in_company(ask: Callable[[Any], Any], inputs: Sequence[Any]) -> list[Any]:
    """Return what a function returns for each input; several are asked at the same time."""
    with ThreadPoolExecutor(6) as pool:
        return [*pool.map(ask, inputs)]


def upload(server: RunningServer, path: str, content: bytes) -> dict[str, Any]:
    """Send a file; return the JSON answer, which must be a success."""
    status, answer = send_file(server.url + path, server.model, content)
    assert status == 200, (status, answer)
    return answer


def trained(recipe: str, workdir: Path, golden: str, *, steps: int, **fields: str) -> Path:
    """Train a small model until its answers differ; return its workdir. golden: the workdir whose
    fields it has, but for `fields`, where `__` stands for a point."""
    others = {name.replace("__", "."): text for name, text in fields.items()}
    for name in ("train.steps", "train.evaluate_every_steps", "checkpoint.every_steps"):
        others[name] = str(steps)
    overrides = RUNS[golden][1] | {"task.answered_examples": "8"} | others
    flags = [f"--config.{name}={text}" for name, text in overrides.items()]
    assert train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *flags]) == 0
    return workdir


def test_translations_of_a_split_have_the_bleu_of_evaluate(tmp_path, capsys):
    fields = {"data__global_batch_size": "32", "model__width": "32"}
    workdir = trained("dates_seq2seq", tmp_path / "run", "attention_pairs", steps=150, **fields)
    with serving(workdir, tmp_path / "log") as server:
        pairs = [*dates.open_source(read_config(workdir).data).splits["test"]]
        sources = [pair["source"] for pair in pairs]
        parts = [sources[start : start + 40] for start in range(0, len(sources), 40)]

        def ask(texts: list[str]) -> list[str]:
            answer = server.ask("/v1/translate", {"model": server.model, "input": texts})
            return [one["text"] for one in answer["data"]]

        served = [text for part in in_company(ask, parts) for text in part]
    metrics, predictions = evaluated(workdir, tmp_path, capsys)
    assert served == [one["hypothesis"] for one in predictions] and len({*served}) > 9
    references = [pair["target"] for pair in pairs]
    assert sacrebleu.corpus_bleu(served, [references]).score == pytest.approx(metrics["bleu"])
    assert sacrebleu.corpus_chrf(served, [references]).score == pytest.approx(metrics["chrf"])


def test_transcripts_of_a_split_have_the_wer_of_evaluate(tmp_path, capsys):
    fields = {"data__global_batch_size": "16", "model__width": "64", "data__recordings": "500"}
    fields |= {"data__lowest_ratio": "30", "data__most_digits": "4"}
    workdir = trained("tones_ctc", tmp_path / "run", "recurrence_sound", steps=300, **fields)
    recordings = [*tones.open_source(read_config(workdir).data).splits["test"]]

    def wav(recording: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, recording["sound"](8000), 8000, "FLOAT", format="WAV")
        return file.getvalue()

    with serving(workdir, tmp_path / "log") as server:

        def ask(recording: dict[str, Any]) -> str:
            return upload(server, "/v1/audio/transcriptions", wav(recording))["text"]

        served = in_company(ask, recordings)
    metrics, predictions = evaluated(workdir, tmp_path, capsys)
    assert served == [one["hypothesis"] for one in predictions] and len({*served}) > 9
    references = [recording["text"] for recording in recordings]
    assert jiwer.wer(references, served) == pytest.approx(metrics["wer"])
    assert jiwer.cer(references, served) == pytest.approx(metrics["cer"])


def test_labels_of_the_pictures_of_a_split_have_the_accuracy_of_evaluate(tmp_path, capsys):
    workdir = GOLDEN / "convolution_pictures"
    with serving(workdir, tmp_path / "log") as server:
        pictures = [*digits.open_source(read_config(workdir).data).splits["test"]]

        def ask(picture: dict[str, Any]) -> dict[str, Any]:
            return upload(server, "/v1/classify", picture["image"])

        served = in_company(ask, pictures)
    metrics, predictions = evaluated(workdir, tmp_path, capsys)
    right = [one["label"] == str(picture["label"])
             for one, picture in zip(served, pictures, strict=True)]  # fmt: skip
    assert np.mean(right) == pytest.approx(metrics["accuracy"])
    assert [one["label"] for one in served] == [one["prediction_name"] for one in predictions]
    best = [one["scores"][0]["score"] for one in served]
    assert best == pytest.approx([one["probability"] for one in predictions], rel=1e-4)
    assert np.std(best) > 1e-4, "the model tells pictures apart"
