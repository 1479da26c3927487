"""What the parameters of requests mean, in a sentence each, for the description of the routes."""

from collections.abc import Mapping
from typing import Any

from serving.forms.form import Form

MEANINGS: Mapping[str, str] = {
    "model": "The name of the model; `/v1/models` tells it.",
    "prompt": "What to go on with: a text, the ids of tokens, or a list of either.",
    "max_tokens": "Tokens that an answer has at most.",
    "n": "Number of answers to each prompt.",
    "stop": "Texts before which an answer ends.",
    "seed": "The same seed and parameters give the same answer. Without one, answers differ.",
    "temperature": "Flattens (above 1) or sharpens (below 1) the distribution of the next token; "
    "0 takes the likeliest token.",
    "top_p": "Draws from the smallest set of tokens with at least this total probability.",
    "top_k": "Draws from this many of the likeliest tokens; 0: all.",
    "min_p": "Draws from the tokens that are at least this many times as likely as the likeliest.",
    "repetition_penalty": "Divides the logits of tokens that the prompt or the answer has.",
    "frequency_penalty": "Lowers the logit of a token for each time the answer has it.",
    "presence_penalty": "Lowers the logits of the tokens that the answer has.",
    "logit_bias": "Adds to the logits of tokens: from ids, as texts, to numbers from -100 to 100.",
    "stream": "Whether to send the answer in parts, as server-sent events.",
    "stream_options": "Options of a stream.",
    "prediction": "A text that the answer is expected to resemble; it then comes sooner.",
    "response_format": "What the answer must be: any text, a JSON object, or what a schema says.",
    "echo": "Whether the answer begins with the prompt.",
    "logprobs": "Whether to return log-probabilities of tokens; for completions, of how many "
    "alternatives.",
    "messages": "The conversation that the answer goes on with.",
    "max_completion_tokens": "Tokens that an answer has at most; else what the context leaves.",
    "top_logprobs": "Number of likeliest tokens to return for each one of the answer.",
    "tools": "Functions that the answer may call.",
    "tool_choice": "Whether the answer may or must call a function, and which.",
    "parallel_tool_calls": "Whether an answer may make several calls.",
    "input": "A text, or several; for embeddings also the ids of tokens.",
    "encoding_format": "Vectors as lists of numbers, or as base64 of little-endian float32.",
    "dimensions": "The width of the model; no other can be had.",
    "language": "The language of the recording; it is only repeated.",
    "timestamp_granularities": "Which parts of a verbose transcript get times: segments.",
    "beam_size": "The width of the search, which is set when the model is served.",
    "length_penalty": "The penalty of long answers, which is set when the model is served.",
}
"""The meaning of each parameter, by its name; routes may have another one in their fields."""


def complete(schema: dict[str, Any], form: type[Form], *, has_null: bool = True) -> None:
    """Add to a form's JSON schema what its fields do not say: their meaning, that null stands for a
    parameter that is not given, and the parameters that are ignored or refused.

    has_null: whether the form can hold null: not if it is an upload.
    """
    properties = schema["properties"]
    for one in properties.values():
        one.pop("title", None)
    for name in properties.keys() - schema.get("required", ()) if has_null else ():
        properties[name] = _or_null(properties[name])
    for name in sorted(form.ignored):
        kind = {} if has_null else {"type": "string"}
        properties[name] = kind | {"description": "Taken, and ignored."}
    for name, reason in form.refused.items():
        values = [*form.harmless.get(name, ()), *([None] if has_null else [])]
        properties[name] = {"description": f"Not supported: {reason}."}
        if values:
            properties[name]["enum"] = values
    for name, meaning in MEANINGS.items():
        if name in properties:
            properties[name].setdefault("description", meaning)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a value that may be null."""
    described = {key: schema[key] for key in ("default", "description") if key in schema}
    plain = {key: value for key, value in schema.items() if key not in described}
    if isinstance(plain.get("type"), str) and not plain.keys() & {"enum", "const"}:
        return plain | {"type": [plain["type"], "null"]} | described
    if plain.keys() == {"anyOf"}:
        choices = [choice for choice in plain["anyOf"] if choice != {"type": "null"}]
        return {"anyOf": [*choices, {"type": "null"}]} | described
    return {"anyOf": [plain, {"type": "null"}]} | described
