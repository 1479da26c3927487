"""The strict command-line parser of the programs (`train.py`, `evaluate.py`, ...).

Flags are `--name=value` or `--name value`. `--config.a.b=value` overrides a field of the
configuration. Flags can not be abbreviated. Unknown flags are errors, and so are repeated flags,
except for those that are `repeatable`. A program may also take words without a flag, such as
folders.
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

from configs.errors import StorageError, UsageError, quote
from configs.reading import names
from configs.reading.validation import FLAG

_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""Hyphens, dashes and the minus sign: word processors replace two hyphens with one of these."""

_FLAG_ALIASES = {
    "config": ("cfg", "config_file", "config_path", "recipe"),
    "workdir": (
        "work_dir", "output_dir", "output", "out", "out_dir", "outdir", "save_dir", "save_path",
        "logdir", "log_dir", "run_dir", "checkpoint_dir", "ckpt_dir", "default_root_dir",
        "run_name", "exp_name", "experiment_name", "project",
    ),
    "explain": ("dry_run", "print_config", "show_config"),
}  # fmt: skip
"""Names that other trainers use for our flags, for suggestions."""


@dataclass(frozen=True)
class Flag:
    """A flag of a program.

    meaning: its description in the help.
    type: `str`, `int` or `float`.
    switch: the flag takes no value; it is True if given, else False.
    repeatable: the flag may be given several times; its value is a tuple.
    minimum, maximum: inclusive bounds of a number.
    above: an exclusive lower bound.
    may_be_empty: whether `--name=` is allowed.
    placeholder: stands for the value in the help.
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
        """The flag with a placeholder for its value: `--name=VALUE`."""
        return f"--{self.name}" if self.switch else f"--{self.name}={self.placeholder}"

    def accepts(self) -> str:
        """Describe the valid values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.type is str:
            return "text"
        bounds = ((">=", self.minimum), (">", self.above), ("<=", self.maximum))
        limits = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds if limit is not None)
        word = "an integer" if self.type is int else "a finite number"
        return f"{word} {limits}".strip()

    def parse(self, text: str) -> Any:
        """Convert `text` to a value. Raises `UsageError` if it is invalid."""
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
        """Return the value for a flag that is not given. Raises `UsageError` if it is required."""
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
    words: bool = False,
) -> SimpleNamespace:
    """Parse a command line. The result has an attribute for each flag, `overrides` and `words`.

    The attribute `overrides` maps paths of configuration fields to their new values as text.
    `words` is a tuple of the arguments that belong to no flag.

    overrides: whether `--config.section.field=value` is allowed; by default, if there is a flag
        `config`.
    words: whether there may be arguments without a flag.

    `--help` prints the docstring of the running program and its flags, and exits with status 0.
    Raises `UsageError` for invalid arguments.
    """
    by_name = {flag.name: flag for flag in flags}
    overrides = "config" in by_name if overrides is None else overrides
    if any(argument in ("--help", "-h") for argument in arguments):
        print(_help(flags, overrides, sys.modules["__main__"].__doc__ or ""))
        raise SystemExit(0)
    given: dict[str, Any] = {}
    fields: dict[str, str] = {}
    bare: list[str] = []
    for name, text in _pairs(arguments, by_name, overrides, words):
        flag = by_name.get(name)
        if not name:
            bare.append(text)
        elif flag is None:
            path = name.removeprefix("config.")
            if path in fields:
                _refuse_twice(name, fields[path], text)
            fields[path] = text
        elif flag.repeatable:
            given[name] = (*given.get(name, ()), flag.parse(text))
        else:
            value = flag.switch or flag.parse(text)
            if name in given:
                _refuse_twice(name, given[name], text)
            given[name] = value
    missing = {name: flag.default_value() for name, flag in by_name.items() if name not in given}
    return SimpleNamespace(**given, **missing, overrides=fields, words=tuple(bare))


def run_verb(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run `main` with the command-line arguments, and exit with the status that it returns.

    A `UsageError` prints one line to standard error, with status 2. A `StorageError`, running out
    of device memory, or a file that can't be read or written prints one line, with status 1.
    Standard output that was closed (`| head`) exits with status 1 without a message; Ctrl-C with
    status 130, unless `main` handles it. Other exceptions propagate.

    The garbage collector runs less often than by default, because start-up creates hundreds of
    thousands of objects that live as long as the process. It does not run at exit.
    """
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    try:
        status = main(sys.argv[1:])
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except StorageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        reason = _machine_failure(error)
        if reason is None:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {reason}", file=sys.stderr)
        sys.exit(1)
    sys.exit(status or 0)


def _machine_failure(error: Exception) -> str | None:
    """Describe a memory, permission or disk error in one line. Returns None for other errors."""
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        (line, *_) = str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()
        line = line[:200].rstrip(".")
        return (
            f"the device's memory does not suffice: {line}. Less is needed with a smaller "
            "data.global_batch_size, shorter examples, train.gradient_accumulation or model.remat"
        )
    if isinstance(error, OSError) and error.errno in _FILE_ERRORS and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


_FILE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _stdout_is_closed() -> bool:
    """Return whether the reader of standard output has closed it, as `| head` does."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _pairs(
    arguments: Sequence[str], flags: dict[str, Flag], overrides: bool, words: bool
) -> Iterator[tuple[str, str]]:
    """Yield (name, value as text) for each flag, and ("", argument) for each other one that begins
    with no dash, if there may be `words`. Raises `UsageError` for any other argument."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if words and argument and argument[0] not in _DASHES:
            yield "", argument
            continue
        name, equals, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not re.match(r"\w", name):
            raise UsageError(_stray_argument(argument, flags, overrides))
        if name not in flags:
            _check_path(name, flags, overrides)
        elif flags[name].switch:
            if equals:
                raise UsageError(f"--{name} takes no value: give it alone, or leave it out")
            yield name, text
            continue
        if not equals:
            if not rest or _looks_like_flag(rest[0]):
                raise UsageError(_missing_value(name, flags, rest))
            text = rest.pop(0)
        yield name, text


def _check_path(name: str, flags: dict[str, Flag], overrides: bool) -> None:
    """Raise `UsageError` unless `name` is `config.` followed by a path of the schema."""
    path = name.removeprefix("config.")
    if not name.startswith("config."):
        raise UsageError(_unknown_flag(name, flags, overrides))
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


def _missing_value(name: str, flags: dict[str, Flag], rest: Sequence[str]) -> str:
    """Return the message for a flag without a value; `rest`: the arguments that follow it."""
    flag, path = flags.get(name), name.removeprefix("config.")
    valid = flag.accepts() if flag else names.accepted(path) if path in names.fields() else "text"
    usage = flag.usage if flag else f"--{name}=VALUE"
    is_value = rest and rest[0].removeprefix("--").partition("=")[0] not in flags
    hint = f"; a value with dashes needs the =: --{name}={rest[0]}" if is_value else ""
    return f"--{name} needs a value: {usage} ({valid}){hint}"


def _suggestion(name: str, flags: dict[str, Flag], overrides: bool) -> str | None:
    """Return the flag or field most similar to `name`, without leading dashes; None if none is
    similar."""
    if name in flags or (overrides and name.removeprefix("config.") in names.fields()):
        return name if name in flags else f"config.{name.removeprefix('config.')}"
    aliases = {alias: flag for flag in flags for alias in _FLAG_ALIASES.get(flag, ())}
    if near := difflib.get_close_matches(name.replace("-", "_"), aliases, n=1, cutoff=0.85):
        return aliases[near[0]]
    near = difflib.get_close_matches(name, flags, n=1, cutoff=0.6)
    similarity = _similarity(name, near[0]) if near else 0
    fields = names.nearest_fields(name.removeprefix("config.")) if overrides else []
    if fields and similarity < 0.8:
        last = fields[0].rpartition(".")[2]
        if similarity < 0.7 or _similarity(name, last) >= similarity:
            return f"config.{fields[0]}"
    return near[0] if near else None


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _unknown_flag(name: str, flags: dict[str, Flag], overrides: bool) -> str:
    if name.startswith("config.") and not overrides:
        return f"--{name}: the configuration is fixed by the workdir and can not be changed here"
    if overrides and (why := names.absence_reason(name)):
        return f"unknown flag --{name}: {why}"
    near = _suggestion(name, flags, overrides)
    if near:
        return f"unknown flag --{name}: did you mean --{near}?"
    return f"unknown flag --{name}: there are {', '.join(f'--{one}' for one in flags)}"


def _stray_argument(argument: str, flags: dict[str, Flag], overrides: bool) -> str:
    """Return the message for an argument that is not a flag."""
    bare = argument.lstrip(_DASHES)
    name, equals, text = bare.partition("=")
    like_a_flag = equals or bare != argument
    near = _suggestion(name, flags, overrides) if like_a_flag else None
    if overrides and like_a_flag and (why := names.absence_reason(name)):
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
