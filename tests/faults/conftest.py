"""The fixtures of the fault suite, and the summary that it prints."""

from pathlib import Path

import pytest

from tests.end_to_end.verbs import write_text
from tests.faults.cases import FIELDS, Case, outcome


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """The text that all runs of the suite read."""
    return write_text(tmp_path_factory.mktemp("text") / "input.txt")


@pytest.fixture(scope="session")
def undisturbed(text, tmp_path_factory):
    """Returns a function that gives the outcome of the run without faults, which runs once."""
    found = []

    def undisturbed() -> tuple[str, list[int]]:
        if not found:
            workdir = tmp_path_factory.mktemp("undisturbed") / "run"
            case = Case(workdir, FIELDS | {"data.path": str(text)}, lambda text: None, undisturbed)
            case.run()
            found.append(outcome(workdir))
        return found[0]

    return undisturbed


@pytest.fixture
def case(text, tmp_path, undisturbed, record_property) -> Case:
    """A run for one case. What it did and found is printed at the end of the suite."""

    def say(line: str) -> None:
        print(line)
        record_property("fault", line)

    fields = FIELDS | {"data.path": str(text)}
    return Case(tmp_path / "run", fields, say, undisturbed)


def pytest_terminal_summary(terminalreporter):
    """Prints what each case did and found, and how many cases could not run here."""
    write, stats = terminalreporter.write_line, terminalreporter.stats
    reports = [r for kind in ("passed", "failed") for r in stats.get(kind, ()) if r.when == "call"]
    cases = [r for r in reports if r.nodeid.startswith("tests/faults/")]
    skipped = [r for r in stats.get("skipped", ()) if r.nodeid.startswith("tests/faults/")]
    if not cases and not skipped:
        return
    terminalreporter.section("faults")
    for report in sorted(cases, key=lambda report: report.nodeid):
        write(f"{report.outcome}: {report.nodeid.removeprefix('tests/faults/')}")
        for name, line in report.user_properties:
            if name == "fault":
                write(f"    {line}")
    for report in skipped:
        write(f"skipped: {report.nodeid.removeprefix('tests/faults/')}: {report.longrepr[2]}")
    write(f"{len(cases)} cases ran, {len(skipped)} could not run here")
