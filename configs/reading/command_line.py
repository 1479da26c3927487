"""The strict parser of the verbs' command lines.

Flags are `--name=value` or `--name value`; fields of the configuration `--config.a.b=value`.
Nothing is abbreviated, nothing is ignored, nothing may be given twice.
"""

import atexit
import difflib
import errno
import gc
import math
import os
import re
import select
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
from configs.reading.values import quote

_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""What looks like a dash, and what word processors make of two."""

_FLAG_ALIASES = {
    "config": ("cfg", "config_file", "config_path", "recipe"),
    "workdir": (
        "work_dir", "output_dir", "output", "out", "out_dir", "outdir", "save_dir", "save_path",
        "logdir", "log_dir", "run_dir", "checkpoint_dir", "ckpt_dir", "default_root_dir",
        "run_name", "exp_name", "experiment_name", "project",
    ),
    "explain": ("dry_run", "print_config", "show_config"),
}  # fmt: skip
"""What other trainers call our flags, for suggestions."""


@dataclass(frozen=True)
class Flag:
    """A flag of a verb.

    type: `str`, `int` or `float`. switch: takes no value; True where it stands, False where not.
    repeatable: may be given several times; its value is a tuple. minimum, maximum: of a number,
    inclusive; above: a number that it must exceed. may_be_empty: whether `--name=` is a text.
    placeholder: what stands for the value in the help.
    """

    name: str
    meaning: str
    type: Callable[[str], Any] = str
    default: Any = None
    required: bool = False
    repeatable: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    may_be_empty: bool = False
    placeholder: str = "VALUE"

    @property
    def usage(self) -> str:
        """The flag as one writes it."""
        return f"--{self.name}" if self.switch else f"--{self.name}={self.placeholder}"

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
            raise UsageError(f"--{self.name} needs a value: {self.usage}")
        value: Any = text
        if self.type is int:
            value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else None
        elif self.type is float:
            value = _finite(text)
        if value is None or not self._allows(value):
            raise UsageError(f"--{self.name} must be {self.accepts()}, not {quote(text)}")
        return value

    def default_value(self) -> Any:
        """The value where the flag is not given; raises `UsageError` if it must be."""
        if self.required:
            raise UsageError(f"--{self.name} is missing: {self.usage} ({self.meaning})")
        if self.repeatable:
            return ()
        return False if self.switch else self.default

    def _allows(self, value: Any) -> bool:
        return (
            (not self.choices or value in self.choices)
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
        )


def parse_command_line(
    arguments: Sequence[str],
    flags: Sequence[Flag],
    *,
    overrides: bool | None = None,
    description: str | None = None,
) -> SimpleNamespace:
    """What the command line says: an attribute for each flag, and `overrides` (path to text).

    overrides: whether `--config.section.field=value` is taken (default: where there is a flag
    `config`). description: the head of the help (default: the docstring of the running program).
    `--help` prints the help and ends the process with status 0. Raises `UsageError`.
    """
    by_name = {flag.name: flag for flag in flags}
    overrides = "config" in by_name if overrides is None else overrides
    if any(argument in ("--help", "-h") for argument in arguments):
        print(_help(flags, overrides, description or sys.modules["__main__"].__doc__ or ""))
        raise SystemExit(0)
    given: dict[str, Any] = {}
    fields: dict[str, str] = {}
    for name, text in _pairs(arguments, by_name, overrides):
        if name not in by_name:
            path = name.removeprefix("config.")
            if path in fields:
                _refuse_twice(name, fields[path], text)
            fields[path] = text
            continue
        flag = by_name[name]
        value = flag.switch or flag.parse(text)
        if flag.repeatable:
            value = (*given.get(name, ()), value)
        elif name in given:
            _refuse_twice(name, given[name], text)
        given[name] = value
    values = {
        flag.name: given[flag.name] if flag.name in given else flag.default_value()
        for flag in flags
    }
    return SimpleNamespace(**values, overrides=fields)


def run_verb(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs `main(arguments)` and ends the process with its status.

    A `UsageError` is one line on standard error and status 2; Ctrl-C that `main` does not handle
    is status 130; a reader of standard output that goes away (`| head`) is status 1, in silence.
    Memory that does not suffice, and a file that can't be read or written, are a line and status 1.
    Other exceptions pass. Python's collector of cycles is told to look less often, as start-up
    makes some hundred thousand objects that stay, and at the end not at all.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    try:
        status = main(sys.argv[1:])
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        reason = _of_the_machine(error)
        if reason is None:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {reason}", file=sys.stderr)
        sys.exit(1)
    sys.exit(status or 0)


def _of_the_machine(error: Exception) -> str | None:
    """What is wrong where an error is no fault of the program's: memory, permissions, the disk."""
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        (line, *_) = str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()
        line = line[:200].rstrip(".")
        return (
            f"the device's memory does not suffice: {line}. Less is needed with a smaller "
            "data.global_batch_size, shorter examples, train.gradient_accumulation or model.remat"
        )
    if isinstance(error, OSError) and error.errno in _DENIED and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def _reader_has_gone() -> bool:
    """Whether nobody reads standard output any more, as after `| head`: no error of ours."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _pairs(
    arguments: Sequence[str], flags: dict[str, Flag], overrides: bool
) -> Iterator[tuple[str, str]]:
    """Names with their texts, in order; raises `UsageError` for whatever is not such a pair."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not re.match(r"\w", name):
            raise UsageError(_stray(argument, flags, overrides))
        if name not in flags:
            _check_path(name, flags, overrides)
        elif flags[name].switch:
            if equals:
                raise UsageError(f"--{name} takes no value: give it alone, or leave it out")
            yield name, text
            continue
        if not equals:
            if not rest or _looks_like_flag(rest[0]):
                raise UsageError(_without_value(name, flags, rest))
            text = rest.pop(0)
        yield name, text


def _check_path(name: str, flags: dict[str, Flag], overrides: bool) -> None:
    """Raises `UsageError` if `name` is no `config.` and path of the schema."""
    path = name.removeprefix("config.")
    if not name.startswith("config."):
        raise UsageError(_unknown(name, flags, overrides))
    if not overrides:
        raise UsageError(f"--{name}: the configuration is the workdir's and is not changed here")
    if not names.is_field_or_section(path):
        raise UsageError(names.unknown_field(path, FLAG))


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


def _without_value(name: str, flags: dict[str, Flag], rest: Sequence[str]) -> str:
    flag, path = flags.get(name), name.removeprefix("config.")
    known = flag.accepts() if flag else names.accepted(path) if path in names.fields() else "text"
    lost = rest and rest[0].removeprefix("--").partition("=")[0] not in flags
    dashed = f"; a value with dashes needs the =: --{name}={rest[0]}" if lost else ""
    return (
        f"--{name} needs a value: {flag.usage if flag else f'--{name}=VALUE'} ({known}){dashed}"
    )


def _suggestion(name: str, flags: dict[str, Flag], overrides: bool) -> str | None:
    """The flag or field, without dashes, that `name` may have meant."""
    if name in flags or (overrides and name.removeprefix("config.") in names.fields()):
        return name if name in flags else f"config.{name.removeprefix('config.')}"
    called = {one: flag for flag in flags for one in _FLAG_ALIASES.get(flag, ())}
    if near := difflib.get_close_matches(name.replace("-", "_"), called, n=1, cutoff=0.85):
        return called[near[0]]
    near = difflib.get_close_matches(name, flags, n=1, cutoff=0.6)
    similarity = difflib.SequenceMatcher(None, name, near[0]).ratio() if near else 0
    fields = names.nearest_fields(name.removeprefix("config.")) if overrides else []
    if fields and similarity < 0.8:
        return f"config.{fields[0]}"
    return near[0] if near else None


def _unknown(name: str, flags: dict[str, Flag], overrides: bool) -> str:
    if name.startswith("config.") and not overrides:
        return f"--{name}: the configuration is fixed by the workdir and can not be changed here"
    if overrides and (why := names.absence_reason(name)):
        return f"unknown flag --{name}: {why}"
    near = _suggestion(name, flags, overrides)
    if near:
        return f"unknown flag --{name}: did you mean --{near}?"
    return f"unknown flag --{name}: there are {', '.join(f'--{one}' for one in flags)}"


def _stray(argument: str, flags: dict[str, Flag], overrides: bool) -> str:
    """The message for an argument that is no flag."""
    bare = argument.lstrip(_DASHES)
    name, equals, text = bare.partition("=")
    meant = equals or bare != argument
    near = _suggestion(name, flags, overrides) if meant else None
    if overrides and meant and (why := names.absence_reason(name)):
        return f"stray argument {argument!r}: {why}"
    hint = f"did you mean --{near}{equals}{text}?" if near else "flags are --name=value"
    return f"stray argument {argument!r}: {hint}"


def _help(flags: Sequence[Flag], overrides: bool, description: str) -> str:
    lines = [*description.strip().splitlines(), "", "Flags, as --name=value or --name value:"]
    for flag in flags:
        lines.append(f"  {flag.usage}")
        notes = [] if flag.accepts() == "text" else [flag.accepts()]
        notes += ["required"] if flag.required else []
        notes += ["may be repeated"] if flag.repeatable else []
        notes += [f"default {flag.default}"] if flag.default is not None else []
        text = flag.meaning + (f" ({'; '.join(notes)})" if notes else "")
        lines += textwrap.wrap(text, 92, initial_indent=" " * 8, subsequent_indent=" " * 8)
    if overrides:
        lines.append(f"  {FLAG}SECTION.FIELD=VALUE")
        lines.append(" " * 8 + "another value for a field of the configuration")
    return "\n".join(lines)
