"""A verb as small as can be: it reads its command line as train.py does, and makes its workdir."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line
from configs.reading.recipes import load_config

FLAGS = (
    Flag("config", "the recipe", required=True, placeholder="FILE"),
    Flag("workdir", "the folder of the run", required=True, placeholder="DIR"),
    Flag("explain", "show every field", switch=True),
    Flag("prompt", "text to continue", repeatable=True, may_be_empty=True),
    Flag("max_tokens", "length of the answer", type=int, minimum=1, default=100),
    Flag("top_p", "share of the likeliest tokens", type=float, above=0, maximum=1),
    Flag("weights", "which weights", choices=("ema", "raw")),
)


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named as users name them: from the root of the project."""
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.fixture
def parse() -> Callable:
    """Reads a command line; gives its flags and overrides."""
    return lambda *arguments: parse_command_line(arguments, FLAGS)


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Runs the verb's reading of a command line, which must fail; gives the message.

    It fails with one line, and makes nothing.
    """

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UsageError) as caught:
            read = parse_command_line(arguments, FLAGS)
            load_config(read.config, read.overrides)
            Path(read.workdir).mkdir()
        assert sorted(tmp_path.rglob("*")) == before, "a refused command line made something"
        message = str(caught.value)
        assert message and "\n" not in message
        return message

    return run
