"""The meaning of each request parameter, in a sentence, for the description of the routes."""

from collections.abc import Mapping
from typing import Any

from serving.forms.form import Form

MEANINGS: Mapping[str, str] = {
    "model": "The name of the model, as in `/v1/models`.",
    "prompt": "The text to continue: a text, a list of token ids, or a list of either.",
    "max_tokens": "Maximum number of tokens of an answer.",
    "n": "Number of answers to each prompt.",
    "stop": "Strings before which an answer ends.",
    "seed": "The same seed and parameters give the same answer. Without one, answers differ.",
    "temperature": "Flattens (above 1) or sharpens (below 1) the distribution of the next token; "
    "0 takes the likeliest token.",
    "top_p": "Draws from the smallest set of tokens with at least this total probability.",
    "top_k": "Draws from this many of the likeliest tokens; 0: all.",
    "min_p": "Draws from tokens with at least this fraction of the likeliest token's probability.",
    "repetition_penalty": "Above 1: makes tokens of the prompt and the answer less likely.",
    "frequency_penalty": "Lowers the logit of a token for each time that it is in the answer.",
    "presence_penalty": "Lowers the logits of tokens that are in the answer.",
    "logit_bias": "Numbers from -100 to 100 to add to logits, by token id (as a string).",
    "stream": "Whether to send the answer in parts, as server-sent events.",
    "stream_options": "Options of a stream.",
    "prediction": "A text that the answer is expected to resemble; it then takes less time.",
    "response_format": "The format of the answer: any text, a JSON object, or a schema's JSON.",
    "echo": "Whether the answer begins with the prompt.",
    "logprobs": "Whether to return log-probabilities of tokens; for completions, of how many "
    "alternatives.",
    "messages": "The conversation that the answer continues.",
    "max_completion_tokens": "Maximum tokens of an answer; by default, what the context leaves.",
    "top_logprobs": "Number of likeliest tokens to return at each position of the answer.",
    "tools": "Functions that the answer may call.",
    "tool_choice": "Whether the answer may or must call a function, and which.",
    "parallel_tool_calls": "Whether an answer may make several calls.",
    "input": "A text, or several; for embeddings, also lists of token ids.",
    "encoding_format": "Vectors as lists of numbers, or as base64 of little-endian float32.",
    "dimensions": "The width of the model; any other value is an error.",
    "language": "The language of the audio; it is only repeated in the answer.",
    "timestamp_granularities": "Parts of a verbose transcript that get times: only `segment`.",
    "beam_size": "The width of the search, which is set when the model is served.",
    "length_penalty": "The penalty of long answers, which is set when the model is served.",
}
"""The meaning of each parameter, by name. A field of a form can have a description of its own."""


def complete(schema: dict[str, Any], form: type[Form], *, has_null: bool = True) -> None:
    """Add to a form's JSON schema, in place, what its fields do not contain: the meanings, null for
    parameters that can be left out, and the parameters that are ignored or refused.

    has_null: whether values can be null; those of an upload can't.
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
