"""Format `stablehlo`: the folder of format `safetensors`, and programs that take its weights.

NAME.stablehlo: a function of the model, serialised by `jax.export`; JAX runs it without this code.
forward.mlir: `forward` for one row of a fixed length, for other compilers of StableHLO such as
IREE. programs.json: what the programs are called with. chat_template.jinja: of a model of
conversations; it makes a prompt of messages.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from data.codecs.chat import TEMPLATE, ChatTokenizer, for_prompts
from data.codecs.tokenizers import Tokenizer
from interop.chat_template import missing_opening
from interop.deriving import load_tokenizer, special_tokens_of
from interop.folder import CHAT_TEMPLATE
from interop.formats import native
from interop.formats.source import Source
from interop.programs import listing
from interop.programs.functions import functions_of
from interop.programs.lowering import abstract_weights, lower, lower_static, portable_model_def

PLATFORMS = ("cpu", "cuda", "tpu")
"""Those that a program can be lowered for by default, and here."""

ALL_PLATFORMS = (*PLATFORMS, "rocm")


def obstacle(config: Config, data_spec: DataSpec) -> str | None:
    """Return None: every model can be written."""
    return None


def write(source: Source, out: Path) -> Sequence[str]:
    """Write the folder `out`. Raises `UsageError` for an unknown platform, and if flatbuffers is
    not installed."""
    platforms = chosen_platforms(source.platforms)
    if find_spec("flatbuffers") is None:
        raise UsageError("--format=stablehlo needs flatbuffers: pip install -e '.[export]'")
    native.write_folder(source, out, "stablehlo")
    model_def, weights = portable_model_def(source), abstract_weights(source)
    functions, notes, programs = functions_of(model_def), [], {}
    for function in functions:
        some, reason = lower(function, model_def, weights, platforms)
        programs[function.name] = some
        for program in some:
            (out / program.file).write_bytes(program.exported.serialize())
        if reason is not None:
            files = f"{some[0].file} to {some[-1].file}" if len(some) > 1 else some[0].file
            notes.append(f"{function.name} has fixed lengths, {files} ({reason})")
    static = lower_static(functions[0], model_def, weights)
    (out / listing.STATIC).write_text(static.text, encoding="utf-8")
    data: Any = source.config.data  # its fields depend on the source
    tokenizer = _tokenizer(source)
    prompts = None if tokenizer is None else for_prompts(tokenizer, data)
    content = listing.listing(model_def, programs, static, prompts)
    (out / listing.NAME).write_text(listing.text_of(content), encoding="utf-8")
    if tokenizer is not None and isinstance(prompts, ChatTokenizer):
        missing, more = missing_opening(tokenizer, prompts.encoder.template)
        template = "".join(missing) + (data.chat_template or TEMPLATE)
        (out / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        notes += more
    return notes


def _tokenizer(source: Source) -> Tokenizer | None:
    """Return the tokenizer of a model; None without one."""
    if source.tokenizer is None:
        return None
    values = source.restored.manifest.get("special_tokens")
    special = special_tokens_of(values, source.tokenizer)
    return load_tokenizer(source.tokenizer, special)


def chosen_platforms(text: str | None) -> tuple[str, ...]:
    """Return the platforms in a text such as "cpu,cuda"; `PLATFORMS` for None. Raises `UsageError`
    for one that is unknown."""
    if text is None:
        return PLATFORMS
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in ALL_PLATFORMS:
            raise UsageError(f"--platforms={text}: {name!r} is none of {', '.join(ALL_PLATFORMS)}")
    return names
