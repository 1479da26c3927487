"""Serves a trained model over HTTP: OpenAI's routes for the tasks that OpenAI's API has, Triform's
own routes for other tasks, and a web page.

python serve.py --workdir=DIR [--host=127.0.0.1 --port=8000] [--step=N|best] [--weights=raw]
                [--weights_dtype=int8|bfloat16] [--token_file=FILE | --open]
                [--config.serve.field=value ...]
python serve.py --from=PATH ...        what export.py wrote, or a folder of transformers

By default only this machine can reach the server. If --host names an address that other machines
can reach, clients must send an access token: FILE has one token per line, and the environment
variable TRIFORM_TOKEN can hold one too. With --open, no token is needed.

The log goes to standard error, one JSON object per line. At SIGTERM the server refuses new
requests, finishes those in progress, and exits with status 0.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.schema.precision import WEIGHTS_DTYPES
from inference.files import text_of_file
from inference.sources import MODEL_FLAGS, model_source
from parallel.environment import enable_compilation_cache

FLAGS = (
    *MODEL_FLAGS,
    Flag("host", meaning="the address to listen on", default="127.0.0.1"),
    Flag("port", meaning="the port; 0: any", type=int, default=8000, minimum=0, maximum=65535),
    Flag("weights_dtype", meaning="the dtype of the weights (as trained)", choices=WEIGHTS_DTYPES),
    Flag("token_file", meaning="a file with a token on each line", placeholder="FILE"),
    Flag("open", meaning="no token is needed, whoever reaches the server", switch=True),
)

TOKEN_VARIABLE = "TRIFORM_TOKEN"


def main(argv: Sequence[str]) -> int:
    """Open the socket, load the model, and answer requests until a signal comes. Return the exit
    status."""
    signal.signal(signal.SIGTERM, leave)  # By default, process 1 of a container ignores it.
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    if find_spec("uvicorn") is None:
        raise UsageError(
            "a server needs more packages than training: make setup, or pip install -e '.[serve]'"
        )
    for path in arguments.overrides:
        if not path.startswith("serve."):
            raise UsageError(f"--config.{path}: only the fields of config.serve can be set here")
    workdir, path, step, weights = (getattr(arguments, flag.name) for flag in MODEL_FLAGS)
    source = model_source(workdir, path, step, weights, arguments.overrides)
    config = source.config
    tokens = tokens_of(arguments.token_file, arguments.open)
    check_exposure(arguments.host, tokens, arguments.open)

    from serving.access import check_allowed_hosts
    from serving.server import listen

    check_allowed_hosts(config.serve.allowed_hosts)
    opened = listen(arguments.host, arguments.port)

    from data.cache import cache_dir
    from inference.loading import load_source
    from serving.app import build_app
    from serving.server import leave_if_busy, run
    from serving.service import Service

    enable_compilation_cache(cache_dir(config.data))
    model = load_source(source, weights_dtype=arguments.weights_dtype, warn=say)
    limits = config.serve
    is_own = not source.is_foreign or "serve.max_context" in arguments.overrides
    if limits.max_context is not None and not is_own:
        say(
            f"a prompt and its answer may have {limits.max_context:,} tokens together: "
            "--config.serve.max_context=N changes it"
        )
    name = limits.model_name or source.name
    service = Service(model, name=name, limits=limits, report=report_of(source.path))
    hosts, takes_addresses = hosts_of(arguments.host, limits.allowed_hosts, tokens)
    app = build_app(service, tokens=tokens, hosts=hosts, takes_addresses=takes_addresses)
    status = run(app, service, limits, opened)
    leave_if_busy(status)
    return status


def tokens_of(path: str | None, is_open: bool) -> list[str]:
    """Return the accepted access tokens: those in the file at `path`, and the one in TRIFORM_TOKEN.

    Raises `UsageError` for a file without a token, for a token that a header can't hold, and if
    there is a token although `is_open` (--open).
    """
    given = [os.environ.get(TOKEN_VARIABLE, "")]
    if path is not None:
        lines = text_of_file("--token_file", path).splitlines()
        given += lines
        if not any(map(str.strip, lines)):
            raise UsageError(f"--token_file={path} has no token: write one on each line")
    tokens = [token.strip() for token in given if token.strip()]
    for token in tokens:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError("a token must consist of printable ASCII characters without spaces")
    if tokens and is_open:
        where = TOKEN_VARIABLE if path is None else f"--token_file={path}"
        raise UsageError(f"--open is given beside a token ({where}): give one of them")
    return tokens


def check_exposure(host: str, tokens: Sequence[str], is_open: bool) -> None:
    """Raise `UsageError` if other machines could use the server without a token, unless `is_open`
    allows it."""
    from serving.access import is_loopback

    if not is_loopback(host) and not tokens and not is_open:
        raise UsageError(
            f"--host={host} is reached by other machines: give --token_file=FILE or "
            f"{TOKEN_VARIABLE}, or --open if everybody may use the model"
        )


def hosts_of(
    host: str, allowed: Sequence[str], tokens: Sequence[str]
) -> tuple[Sequence[str], bool]:
    """Return the names that a request's Host header may have, empty if any name is accepted, and
    whether the header may also have any IP address."""
    from serving.access import LOOPBACK_NAMES, is_loopback

    is_exposed = not is_loopback(host)
    if is_exposed and tokens and not allowed:
        return (), False  # The server's names are unknown here: its token protects it.
    # Without a token, the Host header must prevent DNS rebinding: a hostile page can point its own
    # name at this server, but can't do so with an IP address.
    return (*allowed, *LOOPBACK_NAMES, host), is_exposed and not tokens


def report_of(path: Path) -> bytes | None:
    """Return the HTML report that training wrote into a folder; None if there is none, or it can't
    be read."""
    try:
        return (path / "report.html").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        say(f"report.html can't be read: {error.strerror}")
        return None


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """Exit with status 0: handles SIGTERM until the server installs its own handler."""
    sys.exit(0)


def say(text: str) -> None:
    """Write a message to standard error."""
    print(f"serve.py: {text}", file=sys.stderr)


if __name__ == "__main__":
    run_verb(main)
