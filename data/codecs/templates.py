"""Compiles and renders Jinja templates as Hugging Face Transformers does.

Whatever goes wrong in a template becomes a ValueError with a message of one line.
"""

import functools
import json
import re
import traceback
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox


class JinjaTemplate:
    """A template, compiled.

    source: its text.

    Raises ValueError, which names the line, if it is not valid Jinja.

    The attributes tell what it reads:
    variables: the names of all variables that it does not set itself.
    writes_date: whether it asks for the time.
    constants: all strings that it compares with or writes in an expression.
    """

    def __init__(self, source: str):
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except MemoryError:
            raise
        except Exception as error:
            line = getattr(error, "lineno", None)
            where = "it" if line is None else f"line {line}"
            raise ValueError(f"{where} is no Jinja: {_line(error)}") from None
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(tree))
        names = tree.find_all(jinja2.nodes.Name)
        self.writes_date = any(node.name == "strftime_now" for node in names)
        texts = (node.value for node in tree.find_all(jinja2.nodes.Const))
        self.constants = frozenset(text for text in texts if isinstance(text, str))

    def render(self, **variables: Any) -> str:
        """Return the text that the template writes. Raises ValueError, with the template's line if
        it is known, for any error in it."""
        try:
            return self._template.render(**variables)
        except MemoryError:
            raise
        except Exception as error:
            frames = traceback.walk_tb(error.__traceback__)
            lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
            where = f" (line {lines[-1]} of the template)" if lines else ""
            raise ValueError(f"the template fails: {_line(error)}{where}") from None


def _line(error: Exception) -> str:
    """Return the message of an error as one line. It names the error's class, unless the template
    raised it to say something."""
    message = re.sub(" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    if isinstance(error, jinja2.TemplateError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class _Generation(jinja2.ext.Extension):
    """Ignores the tag `{% generation %}`, with which some templates mark the assistant's part."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an attribute of instances

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """Build the same Jinja environment as Hugging Face Transformers does for chat templates."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    return environment
