"""The words of a run over its sittings."""

from tests.training import runs
from training.progress import Progress
from training.record import Record


def test_what_each_sitting_tells_stands_in_the_report_once(tmp_path, capfd):
    config = runs.load("digits_cnn")
    history = {"seconds": 1.0, "notices": []}
    for _ in range(3):
        record = Record(config, tmp_path, Progress(), about={}, tuned={}, origin=None)
        record.notify("a picture is broken")
        record.go_on_from(history)
        record.notify("going on")
        history = record.history
    assert history["notices"] == ["a picture is broken", *3 * ["going on"]]
    assert capfd.readouterr().err.count("a picture is broken") == 3
