"""Reads recipes: Python files whose `get_config()` returns an `ml_collections.ConfigDict`."""

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
from configs.reading.validation import overridden, validate
from configs.reading.warm_start import InheritedFields, inherit_fields
from configs.schema.config import Config

RECIPES = Path(__file__).parent.parent
"""The folder of the project's recipes."""


def load_config(
    recipe: str | Path,
    overrides: Mapping[str, str] | None = None,
    *,
    inputs: bool = True,
    workdir: str | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Config:
    """Read a recipe, apply `overrides`, and return the checked configuration.

    overrides: maps the path of a field (`model.width`) to its value as text.
    inputs: whether to check that the user's files exist.
    workdir: the folder of the run, if any.
    notify: called with messages about fields that a new run inherits from the run
        `train.initialize_from` (`configs.reading.warm_start`).

    Raises `UsageError`.
    """
    config, inherited = load_with_inherited(recipe, overrides or {}, workdir)
    for part in inherited:
        if part.message is not None:
            notify(part.message)
    if inputs:
        check_inputs(config)
    return config


def load_with_inherited(
    recipe: str | Path, overrides: Mapping[str, str], workdir: str | None = None
) -> tuple[Config, tuple[InheritedFields, ...]]:
    """Return the configuration as `load_config` does, and the fields inherited from another run.

    Does not check that the user's files exist.
    """
    values = overridden(read_recipe(recipe), overrides)
    inherited = inherit_fields(values, overrides, workdir)
    return validate(values, overrides, str(recipe)), inherited


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Run `get_config()` of the file `recipe` and return its result as nested dictionaries.

    Raises `UsageError` for any error in the recipe, with the line number if known.
    """
    path = Path(recipe)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(_unreadable(path, error)) from None
    try:
        code = compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", None) or str(error)
        raise UsageError(f"{path}, line {line}: not Python: {reason}") from None
    return _call_get_config(code, path)


def _call_get_config(code: CodeType, path: Path) -> dict[str, Any]:
    from ml_collections import ConfigDict

    namespace: dict[str, Any] = {"__name__": f"recipe {path.stem}", "__file__": str(path)}
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
        raise UsageError(_failure(path, error)) from None
    raise UsageError(
        f"{path}: get_config() returned {type(config).__name__}, not an ml_collections.ConfigDict: "
        f"start from configs.base, and return what it made"
    )


def _unreadable(path: Path, error: OSError) -> str:
    """Return the message for a recipe that can not be read. Suggests the most similar name."""
    if os.path.isdir(path):
        reason = "is a folder, not a recipe file"
    elif os.path.exists(path):
        reason = f"can not be read ({error.strerror})"
    else:
        reason = "is not there"
    known = recipes()
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.6)
    hint = f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(known.values())}"
    return f"recipe {str(path)!r} {reason}: {hint}"


def recipes() -> dict[str, str]:
    """Return the path of each of the project's recipes, by name. Paths in the current folder are
    relative."""
    paths = {}
    for path in sorted(RECIPES.glob("*.py")):
        if re.search(r"^def get_config\(", path.read_text(), re.MULTILINE):
            inside = path.is_relative_to(Path.cwd())
            paths[path.stem] = str(path.relative_to(Path.cwd()) if inside else path)
    return paths


def _failure(path: Path, error: BaseException) -> str:
    """Return the message for an exception in a recipe, with the line number if it is known."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 1 for frame in frames if frame.filename == str(path)]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    if lines and "ml_collections" in frames[-1].filename:
        reason = _misused_field(path.read_text().splitlines()[lines[-1] - 1], error)
        if reason:
            return f"{where}: {reason}"
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{where}: {reason}"


def _misused_field(line: str, error: BaseException) -> str | None:
    """Explain which field is wrong in a recipe's line such as `config.model.widht = 3`.

    Returns None if the fields in the line do not explain `error`.
    """
    chains = re.findall(r"\b[A-Za-z_]\w*((?:\.[A-Za-z_]\w*)+)", line)
    for path in (chain.removeprefix(".") for chain in chains):
        if not names.is_field_or_section(path):
            return names.unknown_field(path)
        if isinstance(error, AttributeError) and path in names.fields():
            return names.not_of_this_kind(path)
        if isinstance(error, TypeError) and path in names.fields():
            return f"{path} must be {names.accepted(path)}"
    return None
