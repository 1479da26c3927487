"""Answers prompts or files with a trained model: continues, fills in or translates texts,
transcribes recordings, or classifies images, recordings or texts.

python generate.py --workdir=DIR --prompt="..." [--prompt ...] [--max_tokens=N --temperature=T
                   --top_k=K --top_p=P --min_p=P --repetition_penalty=R --frequency_penalty=F
                   --presence_penalty=F --stop="..." --seed=S --n=N --context_shift
                   --speculation --prediction=FILE --stream --json --logprobs]
                   [--json_schema=FILE | --regex=PATTERN | --choices=A --choices=B | --grammar=FILE]
python generate.py --workdir=DIR --prompt="Once [MASK] a time"      a masked language model
python generate.py --workdir=DIR --input=FILE [--input ...] [--prompt="..."] [--json]
                   [--beam_size=K --length_penalty=A]               a translation model
python generate.py --workdir=DIR --prompt="..." [--json]            a text classifier
python generate.py --workdir=DIR --input=FILE [--input ...] [--json]
                                                     a classifier of images or recordings
python generate.py --workdir=DIR --input=FILE [--input ...] [--beam_size=K] [--json]
                                                     a speech recogniser

In place of --workdir=DIR, --from=PATH takes what export.py wrote, or a folder of transformers
(Llama, Qwen3, GPT-2, BERT, ViT ...) with its tokenizer.json.

FILE may be a glob, in quotes: --input='calls/*.wav' means all of these files, sorted by name. The
same prompts, settings and seed give the same text. With --speculation, tokens are guessed from what
the text and its prompt contain, and with --prediction=FILE also from this file; the text stays the
same, and comes sooner if the guesses are right. For a chat model, a prompt is the user's
message.

Only the answers are written to standard output:

- completions without their prompts, and texts with their gaps filled. These may have several lines:
  if there are several prompts, each text follows a line `==> "PROMPT" <==`, as head and tail print
  for files, and an empty line separates the texts;
- translations, one per line: those of the prompts, then those of each file's lines (--input=- is
  standard input); an empty line has an empty translation;
- transcripts, one line for each recording;
- one line for each input of a classifier: its label, a tab, and the likeliest labels with their
  probabilities.

With --json, each answer is one object on a line. If one of several inputs can't be read, its answer
is an empty line, or an object with its `error`. The other inputs are answered, and the exit status
is 2.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError
from configs.json_text import json_text
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.schema.precision import WEIGHTS_DTYPES
from inference.files import Unreadable, input_files, text_of_file
from inference.predictors.completion import TextCompletion
from inference.predictors.predictor import SEARCH_FIELDS, Predictor
from inference.predictors.registry import predictor_class
from inference.predictors.text_to_text import TextToText
from inference.requests import Request, RequestError, Sampling
from inference.sources import MODEL_FLAGS, model_source
from inference.streaming import Writer, heading
from parallel.environment import enable_compilation_cache, set_environment

if TYPE_CHECKING:
    from flax import nnx

REQUEST_FLAGS = (
    Flag(
        "prompt",
        meaning="a text to go on with; an empty one opens a document",
        repeatable=True,
        may_be_empty=True,
    ),
    Flag("max_tokens", meaning=f"tokens of a text, at most ({Request.max_tokens})", type=int),
    Flag("temperature", meaning=f"0: the likeliest token ({Sampling.temperature})", type=float),
    Flag("top_k", meaning="keep the K likeliest tokens; 0: all", type=int),
    Flag("top_p", meaning="keep the smallest set of probability P", type=float),
    Flag("min_p", meaning="keep tokens P times as likely as the likeliest", type=float),
    Flag("repetition_penalty", meaning="above 1, tokens come again more rarely", type=float),
    Flag("frequency_penalty", meaning="makes written tokens rarer, by their number", type=float),
    Flag("presence_penalty", meaning="makes written tokens rarer, by one amount", type=float),
    Flag("stop", meaning="a text ends before the first of these", repeatable=True),
    Flag("seed", meaning=f"start of the random choices ({Sampling.seed})", type=int),
    Flag("n", meaning="number of texts for each prompt (1)", type=int),
    Flag("logprobs", meaning="with --json: add the tokens' log-probabilities", switch=True),
    Flag("context_shift", meaning="a text longer than the context goes on", switch=True),
    Flag("json_schema", meaning="a text is JSON that this schema allows", placeholder="FILE"),
    Flag("regex", meaning="a text matches it as a whole", placeholder="PATTERN"),
    Flag("choices", meaning="a text is one of these", repeatable=True, placeholder="TEXT"),
    Flag("grammar", meaning="a text follows this Lark grammar", placeholder="FILE"),
    Flag("speculation", meaning="guess tokens: sooner where a text repeats itself", switch=True),
    Flag("prediction", meaning="a text like the expected one, to guess from", placeholder="FILE"),
    Flag("stream", meaning="write each text as it grows", switch=True),
    Flag(
        "beam_size",
        meaning="answers that a search keeps side by side (the task's)",
        type=int,
        minimum=1,
        maximum=256,
    ),
    Flag(
        "length_penalty",
        meaning="how far scores are divided by lengths (the task's)",
        type=float,
        minimum=0,
    ),
    Flag(
        "input",
        meaning="a picture, a recording, or a text to translate by lines; or a glob of several",
        repeatable=True,
    ),
)
FILE_FLAGS = frozenset(("json_schema", "grammar", "prediction"))
"""Flags that name a file, whose text is the field of the request."""

FLAGS = (
    *MODEL_FLAGS,
    Flag("weights_dtype", meaning="the dtype of the weights (as trained)", choices=WEIGHTS_DTYPES),
    *REQUEST_FLAGS,
    Flag("json", meaning="write one JSON object a line", switch=True),
)


def main(argv: Sequence[str]) -> int:
    """Restore the model, answer the request, print the answers. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    source = model_source(*(getattr(arguments, flag.name) for flag in MODEL_FLAGS))
    config = source.config
    kind = predictor_class(config)
    request = request_of(arguments, kind, config.task.name)
    set_environment(config)

    from data.cache import cache_dir
    from inference.loading import load_source

    enable_compilation_cache(cache_dir(config.data))
    model = load_source(source, weights_dtype=arguments.weights_dtype, warn=say)
    search = {name: request[name] for name in SEARCH_FIELDS if name in request}
    predictor = model.predictor(search)
    inputs = kind.parse(request)
    if isinstance(predictor, TextCompletion):
        write_completions(predictor, model.module, list(inputs), arguments)
    else:
        write_answers(predictor, predictor.predict(model.module, inputs, warn=say), arguments)
    return 0


def request_of(
    arguments: SimpleNamespace, kind: type[Predictor[Any, Any]], task: str
) -> dict[str, Any]:
    """Build a request from the flags that were given. Raise `UsageError` for a flag that a model
    with this `kind` of predictor does not support."""
    given = {flag.name: getattr(arguments, flag.name) for flag in REQUEST_FLAGS}
    request = {  # None, False and () mean that a flag was not given; 0 is a value.
        name: value
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    }
    try:
        kind.check_fields(request, task, lambda name: f"--{name}=VALUE")
        for name in FILE_FLAGS & request.keys():
            request[name] = text_of_file(f"--{name}", request[name])
        if "input" in request and kind.input_kind is not None:
            request["input"] = arguments.input = input_files(
                request["input"], kind.input_kind, or_standard_input=kind is TextToText
            )
        if kind is not TextToText:  # TextToText reads its inputs lazily.
            kind.parse(request)
    except RequestError as error:
        raise UsageError(f"--{error}") from None
    return request


def write_completions(
    predictor: TextCompletion,
    module: "nnx.Module",
    requests: Sequence[Request],
    arguments: SimpleNamespace,
) -> None:
    """Write the completions of `requests`, in order; with --stream, while they are generated."""
    prompts = [str(request.prompt) for request in requests]
    writer = Writer(prompts, partial(predictor.render, as_json=True) if arguments.json else None)
    on_text = writer.write if arguments.stream else None
    completions = predictor.predict(module, requests, warn=say, on_text=on_text)
    if not arguments.stream:
        for index, completion in enumerate(completions):
            writer.write(index, completion.text, completion)


def write_answers(
    predictor: Predictor[Any, Any], outputs: Iterable[Any], arguments: SimpleNamespace
) -> None:
    """Write each answer as soon as it is ready.

    For an input that can't be read, write an empty line, or an object with its `error`, and raise
    `UsageError` after the last answer. If it is the only input, raise `UsageError` at once.
    """
    count = unread = 0
    for output in outputs:
        if isinstance(output, Unreadable):
            if arguments.input == (output.input,):
                raise UsageError(f"{output.input}: {output.reason}")
            unread += 1
            say(f"{output.input}: {output.reason}")
            error = {"input": output.input, "error": output.reason}
            print(json_text(error) if arguments.json else "")
        else:
            several = predictor.may_span_lines and not arguments.json
            head = heading(arguments.prompt, count) if several else ""
            print(head + predictor.render(output, as_json=arguments.json), flush=True)
        count += 1
    if unread:
        raise UsageError(f"{unread} of {count} inputs could not be read")


def say(text: str) -> None:
    """Write a message to standard error."""
    print(f"generate.py: {text}", file=sys.stderr)


if __name__ == "__main__":
    run_verb(main)
