"""The fixtures of the fault suite, and the summary that it prints."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.verbs import write_text
from tests.faults.cases import FIELDS, STOPPED, Case, Outcome, once_undisturbed, started


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """The text that all runs of the suite read."""
    return write_text(tmp_path_factory.mktemp("text") / "input.txt")


@pytest.fixture(scope="session")
def undisturbed(text, tmp_path_factory) -> Callable[[], Outcome]:
    """Returns a function that gives the outcome of the run without faults, which runs once."""
    fields = FIELDS | {"data.path": str(text)}
    return once_undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", fields)


@pytest.fixture
def say(record_property) -> Callable[[str], None]:
    """Notes what a case did and found, which is printed at the end of the suite."""

    def say(line: str) -> None:
        print(line)
        record_property("fault", line)

    return say


@pytest.fixture(autouse=True)
def _nothing_left_running():
    """A run that a failed test waited for in vain would take the machine from all later ones."""
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
    started.clear()


@pytest.fixture
def case(text, tmp_path, undisturbed, say) -> Case:
    """A run for one case."""
    return Case(tmp_path / "run", FIELDS | {"data.path": str(text)}, say, undisturbed)


@pytest.fixture(scope="session")
def stopped_workdir(text, tmp_path_factory) -> Path:
    """The workdir of a run that was stopped after step 8, and has the steps 6 and 8."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    fields = FIELDS | {"data.path": str(text)}
    case = Case(workdir, fields, lambda text: None, pytest.fail)
    case.run("step:8=term", expect=STOPPED)
    assert case.saved == 8
    return workdir


@pytest.fixture
def stopped(case, stopped_workdir) -> Case:
    """A run that was stopped after step 8, and has the steps 6 and 8."""
    shutil.copytree(stopped_workdir, case.workdir)
    case.say("a run was stopped after step 8")
    return case


@pytest.fixture(scope="session")
def failing_library(tmp_path_factory) -> str:
    """A library that makes calls of the C library fail: see `failing_libc.c`."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler, which makes the library whose calls fail")
    source = Path(__file__).with_name("failing_libc.c")
    library = tmp_path_factory.mktemp("library") / "failing_libc.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)


@pytest.fixture
def failing(failing_library) -> Callable[..., dict[str, str]]:
    """Returns a function that gives the variables with which calls of the C library fail.

    call, where, number, switch: as in `failing_libc.c`.
    """

    def failing(call: str, where: str = "", number: int = 0, switch: Path | None = None):
        variables = {
            "LD_PRELOAD": failing_library,
            "FAILING_CALL": call,
            "FAILING_PATH": where,
            "FAILING_NUMBER": str(number),
        }
        return variables | ({} if switch is None else {"FAILING_SWITCH": str(switch)})

    return failing


@pytest.fixture
def obeying_modes(case) -> None:
    """Makes processes of the case heed the permissions of files. Those of root would not."""
    if os.geteuid() != 0:
        return
    if shutil.which("setpriv") is None:
        pytest.skip("root heeds no permissions, and there is no setpriv to change that")
    case.prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


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
