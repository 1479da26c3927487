"""The strict parser of the verbs' command lines.

Flags are `--name=value` or `--name value`; fields of the configuration `--config.a.b=value`.
Nothing is abbreviated, nothing is ignored, nothing may be given twice.
"""

import difflib
import math
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from configs.errors import UsageError
from configs.reading import names
from configs.reading.overriding import FLAG
from configs.schema.settings import accepts

_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""What looks like a dash, and what word processors make of two."""


@dataclass(frozen=True)
class Flag:
    """A flag of a verb.

    type: `str`, `int`, `float`, or `bool` for a switch, which takes no value. repeatable: may be
    given several times; its value is a tuple. minimum, maximum: of a number, inclusive; above: a
    number that it must exceed. may_be_empty: whether `--name=` is text of no letters.
    placeholder: what stands for the value in the help.
    """

    name: str
    meaning: str
    type: type = str
    default: Any = None
    required: bool = False
    repeatable: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    may_be_empty: bool = False
    placeholder: str = "VALUE"

    def accepts(self) -> str:
        """What a valid value is, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.type is str:
            return "text"
        bounds = ((">=", self.minimum), (">", self.above), ("<=", self.maximum))
        limits = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds if limit is not None)
        word = "an integer" if self.type is int else "a finite number"
        return f"{word} {limits}".strip()

    def parse(self, text: str) -> Any:
        """The value that `text` says; raises `UsageError`."""
        if not text and not self.may_be_empty:
            raise UsageError(f"--{self.name} needs a value: --{self.name}={self.placeholder}")
        value: Any = text
        if self.type is int:
            value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else None
        elif self.type is float:
            value = _finite(text)
        if value is None or not self._allows(value):
            raise UsageError(f"--{self.name} must be {self.accepts()}, not {text!r}")
        return value

    def _allows(self, value: Any) -> bool:
        return (
            (not self.choices or value in self.choices)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
        )


def parse_command_line(
    arguments: Sequence[str], flags: Sequence[Flag], *, description: str, overrides: bool = False
) -> SimpleNamespace:
    """What the command line says: an attribute for each flag, and `overrides` (path to text).

    overrides: whether the verb takes `--config.section.field=value`. `--help` prints the help
    and ends the process with status 0. Raises `UsageError`.
    """
    by_name = {flag.name: flag for flag in flags}
    given: dict[str, Any] = {}
    fields: dict[str, str] = {}
    if any(argument in ("--help", "-h") for argument in arguments):
        print(_help(flags, description, overrides))
        raise SystemExit(0)
    for name, text in _pairs(arguments, by_name, overrides):
        if name.startswith("config."):
            path = name.removeprefix("config.")
            if path in fields:
                _refuse_twice(name, fields[path], text)
            fields[path] = text
            continue
        flag = by_name[name]
        value = True if flag.type is bool else flag.parse(text)
        if flag.repeatable:
            value = (*given.get(name, ()), value)
        elif name in given:
            _refuse_twice(name, given[name], text)
        given[name] = value
    for flag in flags:
        if flag.required and flag.name not in given:
            raise UsageError(
                f"--{flag.name} is missing: --{flag.name}={flag.placeholder} ({flag.meaning})"
            )
        empty = () if flag.repeatable else False if flag.type is bool else flag.default
        given.setdefault(flag.name, empty)
    return SimpleNamespace(**given, overrides=fields)


def run_verb(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs `main(arguments)` and ends the process with its status.

    A `UsageError` is one line on standard error and status 2; Ctrl-C that `main` does not handle
    is status 130. Other exceptions pass.
    """
    try:
        status = main(sys.argv[1:])
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status or 0)


def _pairs(
    arguments: Sequence[str], flags: dict[str, Flag], overrides: bool
) -> Iterator[tuple[str, str]]:
    """Names with their texts, in order; raises `UsageError` for whatever is not such a pair."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            raise UsageError(_stray(argument, flags, overrides))
        if name.startswith("config.") and overrides:
            if name.removeprefix("config.") not in names.fields() and not _is_section(name):
                raise UsageError(names.unknown_field(name.removeprefix("config."), FLAG))
        elif name not in flags:
            raise UsageError(_unknown(name, flags, overrides))
        switch = name in flags and flags[name].type is bool
        if switch and equals:
            raise UsageError(f"--{name} is a switch and takes no value: give it alone, or not")
        if not switch and not equals:
            if not rest or _looks_like_flag(rest[0]):
                raise UsageError(_without_value(name, flags))
            text = rest.pop(0)
        yield name, text


def _is_section(name: str) -> bool:
    prefix = f"{name.removeprefix('config.')}."
    return any(path.startswith(prefix) for path in names.fields())


def _looks_like_flag(argument: str) -> bool:
    return argument.startswith("-") and _finite(argument) is None


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refuse_twice(name: str, first: Any, second: str) -> NoReturn:
    if first is True:
        raise UsageError(f"--{name} is given twice: keep one")
    raise UsageError(f"--{name} is given twice, as {first!r} and {second!r}: keep one")


def _without_value(name: str, flags: dict[str, Flag]) -> str:
    if name in flags:
        flag = flags[name]
        return f"--{name} needs a value: --{name}={flag.placeholder} ({flag.accepts()})"
    info = names.fields().get(name.removeprefix("config."))
    return f"--{name} needs a value: --{name}=VALUE" + (f" ({accepts(info)})" if info else "")


def _suggestion(name: str, flags: dict[str, Flag], overrides: bool) -> str | None:
    """The flag or field, without dashes, that `name` may have meant."""
    if name in flags or (overrides and name.removeprefix("config.") in names.fields()):
        return name if name in flags else f"config.{name.removeprefix('config.')}"
    near = difflib.get_close_matches(name, flags, n=1, cutoff=0.6)
    likeness = difflib.SequenceMatcher(None, name, near[0]).ratio() if near else 0
    fields = names.nearest_fields(name.removeprefix("config.")) if overrides else []
    if fields and likeness < 0.8:
        return f"config.{fields[0]}"
    return near[0] if near else None


def _unknown(name: str, flags: dict[str, Flag], overrides: bool) -> str:
    if name.startswith("config.") and not overrides:
        return f"--{name}: the configuration is fixed by the workdir and can not be changed here"
    near = _suggestion(name, flags, overrides)
    if near:
        return f"unknown flag --{name}: did you mean --{near}?"
    return f"unknown flag --{name}: there are {', '.join(f'--{one}' for one in flags)}"


def _stray(argument: str, flags: dict[str, Flag], overrides: bool) -> str:
    """The message for an argument that is no flag."""
    bare = argument.lstrip(_DASHES)
    name, equals, text = bare.partition("=")
    near = _suggestion(name, flags, overrides) if equals or bare != argument else None
    hint = f"did you mean --{near}{equals}{text}?" if near else "flags are --name=value"
    return f"stray argument {argument!r}: {hint}"


def _help(flags: Sequence[Flag], description: str, overrides: bool) -> str:
    program = Path(sys.argv[0]).name
    lines = [description, "", f"usage: python {program} [flags]", ""]
    for flag in flags:
        lines.append(f"  --{flag.name}" + ("" if flag.type is bool else f"={flag.placeholder}"))
        notes = [] if flag.type in (bool, str) and not flag.choices else [flag.accepts()]
        notes += ["required"] if flag.required else []
        notes += ["may be repeated"] if flag.repeatable else []
        notes += [f"default {flag.default}"] if flag.default is not None else []
        text = flag.meaning + (f" ({'; '.join(notes)})" if notes else "")
        lines += textwrap.wrap(text, 92, initial_indent=" " * 8, subsequent_indent=" " * 8)
    if overrides:
        lines += [f"  {FLAG}SECTION.FIELD=VALUE", " " * 8 + "A field of the configuration."]
    return "\n".join(lines)
