"""Compiles grammars on trial, in a separate process.

llguidance overflows the stack on chains of a few thousand references, and takes minutes for some
schemas of a few lines. Such a grammar ends the trial process instead of this one, and is refused.

This file is also the program of the trial process. Each line of its standard input is a grammar as
a JSON string. It answers with a line that has the compiler's error message as a JSON string, which
is empty if the grammar compiles.
"""

import functools
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from llguidance import LLParserLimits

MOST_SECONDS = 3
"""CPU seconds for one grammar. The largest schemas that are allowed take half a second."""

MOST_BYTES = 4 << 30
"""Limit of the trial process's address space."""

STACK_BYTES = 2 << 20
"""Stack of the thread that compiles in the trial process. Python's threads have at least four times
as much, so a grammar that compiles here does not overflow the stack elsewhere."""

TOO_SLOW = f"compiling it takes longer than {MOST_SECONDS} seconds"
TOO_LARGE = "compiling it takes too much memory, or it is nested too deeply"


INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
"""Environment variables that the trial process gets. The others may be secrets."""


def parser_limits() -> "LLParserLimits":
    """Return limits for llguidance with which a step of a text takes at most half a second."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )


@functools.lru_cache(maxsize=128)
def compilation_error(grammar: str) -> str:
    """Return the reason why llguidance can't compile `grammar`; empty if it can."""
    return _TRIALS.error(grammar)


class _Trials:
    """The trial process: started for the first grammar, and again after one that ended it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def error(self, grammar: str) -> str:
        with self._lock:
            try:
                return self._answer(grammar)
            except OSError:  # The process had ended while it was idle.
                if self._process is not None:
                    self._process.kill()
                    self._process.wait()
                self._process = None
                return self._answer(grammar)

    def _answer(self, grammar: str) -> str:
        if self._process is None:
            self._process = _started()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(grammar) + "\n")
        process.stdin.flush()
        if answer := process.stdout.readline():
            return json.loads(answer)
        self._process = None
        return TOO_SLOW if process.wait() == -signal.SIGPROF else TOO_LARGE


def _started() -> "subprocess.Popen[str]":
    """Start the trial process in its own session, so that Ctrl-C in a terminal does not end it."""
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: os.environ[name] for name in INHERITED if name in os.environ},
        start_new_session=True,
    )


_TRIALS = _Trials()


def _serve() -> None:
    """Compile the grammars on standard input one after another, and print the answers."""
    import resource

    from llguidance import LLMatcher, LLTokenizer

    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    threading.stack_size(STACK_BYTES)
    tokenizer, limits = LLTokenizer("byte"), parser_limits()
    for line in sys.stdin:
        errors = [TOO_LARGE]  # replaced when the compiler returns

        def compile_grammar(grammar: str, errors: list[str] = errors) -> None:
            matcher = LLMatcher(tokenizer, grammar, limits=limits, log_level=0)
            errors[:] = [matcher.get_error()]

        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # SIGPROF ends the process
        thread = threading.Thread(target=compile_grammar, args=(json.loads(line),))
        thread.start()
        thread.join()
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(errors[0][:2000]), flush=True)


if __name__ == "__main__":
    _serve()
