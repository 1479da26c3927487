"""`programs.json`: the programs of an exported model, and how they are called."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.codecs.chat import ChatTokenizer
from data.codecs.tokenizers import UNKNOWN, Tokenizer
from interop.programs.functions import ArraySpec, Function, Specs
from interop.programs.lowering import Program, StaticProgram
from training.model_def import ModelDef

NAME = "programs.json"
STATIC = "forward.mlir"
VERSION = 1
"""Changes when a reader of the old version would misread the new one."""

CALL = (
    "jax.export.deserialize(bytearray(CONTENT OF A FILE)).call(weights, *inputs) returns the "
    "results by name. weights: the arrays of the safetensors files by name; inputs: in the order "
    "of this list. A size with a name may be any number, the same wherever the name is, unless "
    "the sizes of the file have it"
)


def listing(
    model_def: ModelDef,
    programs: Mapping[str, Sequence[Program]],
    static: StaticProgram,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """Return the content of `programs.json`.

    programs: those of each function, by its name. static: that of the file `STATIC`. tokenizer: for
    prompts; None for a model without one.
    """
    first = next(iter(programs.values()))[0]
    return {
        "version": VERSION,
        "jax": jax.__version__,
        "calling_convention": first.exported.calling_convention_version,
        "platforms": list(first.exported.platforms),
        "compute_dtype": model_def.config.precision.compute_dtype,
        "call": CALL,
        "functions": {
            name: {
                "meaning": some[0].function.meaning,
                "files": [{"file": one.file, "sizes": dict(one.sizes)} for one in some],
                "inputs": _described(some[0].function.inputs),
                "results": _described(some[0].function.results),
            }
            for name, some in programs.items()
        },
        "groups": _groups(some[0].function for some in programs.values()),
        "static": {
            "file": STATIC,
            "function": "main",
            "arguments": _arrays(static.arguments),
            "results": _arrays(static.results),
        },
        "tokens": {} if tokenizer is None else _special_tokens(model_def, tokenizer),
    }


def text_of(content: Mapping[str, Any]) -> str:
    """Return the content of `programs.json` as text, with each array on a line."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    for brackets in (r"\[[^\[\]{}]*\]", r"\{[^{}]*\}"):
        text = re.sub(brackets, lambda part: re.sub(r"\n *", " ", part[0]), text)
    return text


def _described(specs: Mapping[str, Specs]) -> dict[str, Any]:
    """Return the description of each array; for a dictionary of arrays, the name of its group."""
    return {
        name: {"shape": list(one.shape), "dtype": one.dtype, "meaning": one.meaning}
        if isinstance(one, ArraySpec)
        else {"group": name}
        for name, one in specs.items()
    }


def _groups(functions: Iterable[Function]) -> dict[str, Any]:
    """Return the descriptions of the arrays of each dictionary among the inputs and results."""
    return {
        name: _described(one)
        for function in functions
        for specs in (function.inputs, function.results)
        for name, one in specs.items()
        if not isinstance(one, ArraySpec)
    }


def _arrays(arrays: Sequence[tuple[str, jax.core.ShapedArray]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in arrays
    ]


def _special_tokens(model_def: ModelDef, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ids that a program's caller needs to write and read texts.

    opening: ids before a text; empty_opening: before an empty prompt. closing: ids after a text
    that is labelled or filled. separator: after the source of an encoder-decoder, and the first
    target token. end: ids of which each ends what is generated. mask, blank: the entry that the
    task adds. unwritable: ids that are never generated. bos_token, eos_token: variables of the chat
    template, which opens prompts itself.
    """
    output = model_def.config.task.model_output
    size = tokenizer.vocabulary_size
    known = [number for token, number in tokenizer.vocabulary().items() if token != UNKNOWN]
    unwritable = np.setdiff1d(np.arange(size), known).tolist()
    if output == "next_tokens":
        generated = {
            "end": [tokenizer.end_id, *tokenizer.other_end_ids],
            "unwritable": unwritable,
        }
        if isinstance(tokenizer, ChatTokenizer):
            template = tokenizer.encoder.template
            variables = {"bos_token": template.bos, "eos_token": template.eos}
            return {"opening": [], "empty_opening": [], **generated, **variables}
        opening, empty = tokenizer.opening.tolist(), tokenizer.document_opening.tolist()
        return {"opening": opening, "empty_opening": empty, **generated}
    if output == "target_tokens":
        separator = tokenizer.separator_id
        return {"separator": separator, "end": [separator], "unwritable": unwritable}
    if output == "transcript":
        return {"blank": size, "unwritable": sorted({*unwritable, tokenizer.separator_id})}
    framing = {"opening": tokenizer.opening.tolist(), "closing": tokenizer.closing.tolist()}
    return framing | ({"mask": size} if output == "missing_tokens" else {})
