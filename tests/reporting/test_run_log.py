"""The words of a run over its sittings."""

from reporting.progress import Progress
from reporting.run_log import RunLog
from tests.training import runs


def log_in(workdir) -> RunLog:
    config = runs.load("digits_cnn")
    return RunLog(config, workdir, Progress(), metadata={"parameters": 10}, tuned={})


def test_what_each_sitting_tells_stands_in_the_report_once(tmp_path, capfd):
    history = {"seconds": 1.0, "notices": [], "events": []}
    for _ in range(3):
        run_log = log_in(tmp_path)
        run_log.warn("a picture is broken")
        run_log.info("1 % is padding")
        run_log.go_on_from(20, history)
        history = run_log.history
    assert history["notices"] == ["a picture is broken"]
    assert history["events"] == ["1 % is padding", *3 * ["going on from checkpoint 20"]]
    assert capfd.readouterr().err.count("a picture is broken") == 3


def test_only_warnings_are_marked_in_the_report_and_older_notices_are_kept(tmp_path):
    run_log = log_in(tmp_path)
    run_log.open(0)
    run_log.go_on_from(20, {"seconds": 1.0, "notices": ["an old notice"]})
    run_log.warn("a picture is broken")
    page = run_log.report("finished", 40).read_text()
    run_log.close()
    lists = {}
    for part in page.split('<ul class="messages')[1:]:
        classes, _, items = part.partition('">')
        lists[classes.strip()] = items.partition("</ul>")[0]
    assert [*lists] == ["panel marked", "panel"]
    assert "an old notice" in lists["panel marked"]
    assert "a picture is broken" in lists["panel marked"]
    assert "going on" not in lists["panel marked"]
    assert "going on from checkpoint 20" in lists["panel"]


def test_a_run_that_goes_back_cuts_its_metrics_and_keeps_its_messages(tmp_path, capfd):
    run_log = log_in(tmp_path)
    run_log.open(0)
    for step in (1, 2, 3):
        run_log.write(step, {"loss": float(step)})
    run_log.warn("the loss has spiked")
    run_log.go_back_to(1)
    run_log.write(2, {"loss": 20.0})
    assert [(line["step"], line["loss"]) for line in run_log.read_metrics()] == [
        (1, 1.0),
        (2, 20.0),
    ]
    assert run_log.history["notices"] == ["the loss has spiked"]
    run_log.close()
    assert "cut to step 1" in capfd.readouterr().err
