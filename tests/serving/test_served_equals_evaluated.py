"""The log-probabilities that the server gives sum to the loss that `evaluate.py` prints.

Other models, packed documents, accuracy, BLEU and WER: tests/full/test_served_figures.py.
"""

import pytest

from tests.serving.evaluated import batches, documents, figures, served_loss
from tests.serving.servers import GOLDEN, ROOT, serving


@pytest.mark.full
def test_the_loss_of_a_split_over_http_is_that_of_evaluate(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of data are relative
    workdir = GOLDEN / "attention_text"
    evaluated = figures(workdir, capsys, "--split=validation")
    found = [ids for batch in batches(workdir, "validation") for ids, _ in documents(batch)]
    assert max(map(len, found)) == 17  # a whole context of tokens, and the target of the last one
    with serving(workdir, tmp_path / "log") as server:
        loss, count = served_loss(server, workdir, "validation")
    assert count == 303
    assert loss == pytest.approx(evaluated["loss"], rel=1e-5)
