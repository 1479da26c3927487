"""A verb as its own process: what it prints, how it ends, what it imports, what it touches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERB = '''"""A verb."""
import atexit
import os
import sys
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.explanation import explain
from configs.reading.recipes import load_config

def tell_imports():
    heavy = [name for name in ("jax", "flax", "numpy", "grain") if name in sys.modules]
    with open(os.environ["IMPORTED"], "w") as file:
        print(*heavy, file=file)

atexit.register(tell_imports)
class JaxRuntimeError(RuntimeError):
    pass

FLAGS = [Flag("config", "the recipe", required=True),
         Flag("workdir", "the folder of the run"),
         Flag("explain", "every field", switch=True)]

def main(arguments):
    read = parse_command_line(arguments, FLAGS)
    if read.explain:
        print(explain(read.config, read.overrides))
        return 0
    config = load_config(read.config, read.overrides)
    if config.seed == 1:
        raise KeyboardInterrupt
    if config.seed == 2:
        raise RuntimeError("of our own making")
    if config.seed == 3:
        return 75
    if config.seed == 4:
        raise OSError(28, "No space left on device", "runs/mine/metrics.jsonl")
    if config.seed == 5:
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\\nOf what.")

if __name__ == "__main__":
    run_verb(main)
'''


@pytest.fixture
def verb(tmp_path):
    """Runs the verb in an empty folder with arguments; gives the ended process."""
    (tmp_path / "verb.py").write_text(VERB)
    folder = tmp_path / "empty"
    folder.mkdir()
    imported = tmp_path / "imported"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IMPORTED": str(imported)}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(tmp_path / "verb.py"), *arguments]
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500
        )
        assert imported.read_text() == "\n", "JAX and the like start late: an error comes at once"
        assert list(folder.iterdir()) == [], "something was made"
        return ended

    return run


RECIPE = f"--config={ROOT / 'configs' / 'digits_cnn.py'}"


@pytest.mark.parametrize(
    "arguments",
    [
        [RECIPE, "--workdir=made", "--config.model.widht=3"],
        [RECIPE, "--workdir=made", "--config.data.global_batch_size=63", "--config.mesh.data=2"],
        ["--config=gone.py", "--workdir=made"],
        [RECIPE, "--workdir=made", "config.train.steps=3"],
        ["--workdir=made"],
        [RECIPE, "--workdir=made", "--config.train.steps=\udcff"],
    ],
)
def test_a_mistake_is_one_line_and_status_2(verb, arguments):
    ended = verb(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("verb.py: error: ")
    assert ended.stderr.count("\n") == 1 and ended.stderr.endswith("\n")


@pytest.mark.parametrize(
    ("seed", "told"),
    [
        (4, "runs/mine/metrics.jsonl: No space left on device"),
        (5, "the device's memory does not suffice: Out of memory allocating 7 bytes. Less is "),
    ],
)
def test_what_the_machine_lacks_is_one_line_and_status_1(verb, seed, told):
    ended = verb(RECIPE, f"--config.seed={seed}")
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith(f"verb.py: error: {told}") and ended.stderr.count("\n") == 1


def test_the_whole_reading_says_nothing(verb):
    ended = verb(RECIPE, "--config.train.steps=3")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_ctrl_c_and_a_status_of_its_own_and_an_error_of_ours(verb):
    assert verb(RECIPE, "--config.seed=1").returncode == 130
    assert verb(RECIPE, "--config.seed=3").returncode == 75
    ours = verb(RECIPE, "--config.seed=2")
    assert ours.returncode == 1 and "RuntimeError: of our own making" in ours.stderr


def test_help_and_explain_go_to_standard_output(verb):
    for flag in ("--help", "--explain"):
        ended = verb(RECIPE, flag)
        assert ended.returncode == 0 and ended.stderr == ""
        assert len(ended.stdout.splitlines()) > 5


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    (tmp_path / "verb.py").write_text(VERB)
    command = f"{sys.executable} {tmp_path / 'verb.py'} {RECIPE} --explain | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IMPORTED": str(tmp_path / "imported")}
    ended = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1
