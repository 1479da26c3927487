"""Whatever `evaluate.py` measures of a model, the server's answers measure too."""

import pytest

import train
from tests.golden.workdirs import DECODER, RUNS
from tests.serving.evaluated import batches, documents, figures, served_loss
from tests.serving.servers import GOLDEN, ROOT, serving

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
