"""Recipes: Python files with a `get_config()` that returns an `ml_collections.ConfigDict`."""

import difflib
import os
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from configs.errors import UsageError
from configs.reading import names
from configs.reading.inputs import check_inputs
from configs.reading.overriding import Values
from configs.reading.validation import build_config
from configs.reading.warm_start import InheritedFields, inherit_fields
from configs.schema.config import Config

RECIPES = Path(__file__).parent.parent
"""The folder of the recipes that come with the project."""


def load_config(
    recipe: str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    inputs: bool = True,
    workdir: str | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Config:
    """The checked configuration of the recipe file under `overrides` (path to text).

    inputs: whether files that the user names have to be there. workdir: where the run is, if it is
    to go on. notify: gets a line for what a new run takes over from another one
    (`configs.reading.warm_start`). Raises `UsageError`.
    """
    config, taken = load_with_inherited(recipe, overrides or {}, workdir)
    for one in taken:
        if one.message is not None:
            notify(one.message)
    if inputs:
        check_inputs(config)
    return config


def load_with_inherited(
    recipe: str | Path, overrides: Mapping[str, str], workdir: str | None = None
) -> tuple[Config, tuple[InheritedFields, ...]]:
    """As `load_config`, whatever files are there; and what is as in another run."""
    taken: list[InheritedFields] = []

    def complete(values: Values) -> None:
        taken.extend(inherit_fields(values, overrides, workdir))

    return build_config(read_recipe(recipe), overrides, str(recipe), complete), tuple(taken)


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """What `get_config()` of the file `recipe` returns, as nested dictionaries.

    Raises `UsageError` with the line of the recipe that is wrong.
    """
    path = Path(recipe)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(_not_readable(path, error)) from None
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        raise UsageError(f"{path}, line {line}: not Python: {reason}") from None
    return _call_get_config(code, path)


def _call_get_config(code: CodeType, path: Path) -> dict[str, Any]:
    from ml_collections import ConfigDict

    namespace = {"__name__": f"recipe {path.stem}", "__file__": str(path)}
    try:
        exec(code, namespace)
        if not callable(namespace.get("get_config")):
            raise UsageError(f"{path} has no function get_config()")
        config = namespace["get_config"]()
        if isinstance(config, ConfigDict):
            return config.to_dict()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(_broken(path, error)) from None
    raise UsageError(
        f"{path}: get_config() returned {type(config).__name__}, not an ml_collections.ConfigDict: "
        f"start from configs.base, and return what it made"
    )


def _not_readable(path: Path, error: OSError) -> str:
    """The message for a recipe that can not be read, with the recipe that may be meant."""
    if os.path.isdir(path):
        reason = "is a folder, not a recipe file"
    elif os.path.exists(path):
        reason = f"can not be read ({error.strerror})"
    else:
        reason = "is not there"
    there = recipes()
    near = difflib.get_close_matches(path.stem, there, n=1, cutoff=0.6)
    hint = f"did you mean {there[near[0]]}?" if near else f"there are {', '.join(there.values())}"
    return f"recipe {str(path)!r} {reason}: {hint}"


def recipes() -> dict[str, str]:
    """The recipes that come with the project: name to path, from the current folder if inside."""
    there = {}
    for path in sorted(RECIPES.glob("*.py")):
        if re.search(r"^def get_config\(", path.read_text(), re.MULTILINE):
            inside = path.is_relative_to(Path.cwd())
            there[path.stem] = str(path.relative_to(Path.cwd()) if inside else path)
    return there


def _broken(path: Path, error: BaseException) -> str:
    """The message for an exception inside a recipe, with the recipe's line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    if lines and "ml_collections" in frames[-1].filename:
        reason = _misused_field(path.read_text().splitlines()[lines[-1] - 1], error)
        if reason:
            return f"{where}: {reason}"
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{where}: {reason}"


def _misused_field(line: str, error: BaseException) -> str | None:
    """What is wrong with a field in a line of a recipe such as `config.model.widht = 3`."""
    chains = re.findall(r"\b[A-Za-z_]\w*((?:\.[A-Za-z_]\w*)+)", line)
    for path in (chain.removeprefix(".") for chain in chains):
        if not names.is_field_or_section(path):
            return names.unknown_field(path)
        if isinstance(error, AttributeError) and path in names.fields():
            return names.not_of_this_kind(path)
        if isinstance(error, TypeError) and path in names.fields():
            return f"{path} must be {names.accepted(path)}"
    return None
