"""Answers of a trained model: texts that go on, are filled in or translated, what is said in
recordings, labels of pictures, recordings or texts.

python generate.py --workdir=DIR --prompt="..." [--prompt ...] [--max_tokens=N --temperature=T
                   --top_k=K --top_p=P --min_p=P --repetition_penalty=R --stop="..." --seed=S
                   --stream --json]
python generate.py --workdir=DIR --prompt="Once [MASK] a time"      a masked language model
python generate.py --workdir=DIR --input=FILE [--input ...] [--prompt="..."] [--json]
                   [--beam_size=K --length_penalty=A]               a translator, of lines of texts
python generate.py --workdir=DIR --prompt="..." [--json]            a classifier of texts
python generate.py --workdir=DIR --input=FILE [--input ...] [--json]   of pictures, or of recordings
python generate.py --workdir=DIR --input=FILE [--input ...] [--beam_size=K] [--json]
                                                                    a recogniser of speech

FILE may be a glob, in quotes: --input='calls/*.wav' is all of them, in the order of their names.

Standard output carries the answers alone: completions without their prompts; texts whose gaps are
filled; a translation a line, of the prompts and then of each file's lines (--input=- is standard
input), an empty one for an empty line; a transcript a line, of each recording; for what is to be
classified its label, a tab, and the likeliest labels with their probabilities. Completions and
filled texts may have several lines: of several prompts each stands behind `==> "PROMPT" <==`, as
files do in head and tail, and an empty line parts them. With --json it is one object a line. In the
place of an input among several that can't be read stands an empty line, or an object with its
`error`; the others are answered, and the exit status is 2. The same prompts, settings and seed give
the same text. To a model that learnt from conversations a prompt is what the user says.
"""

import codecs
import contextlib
import dataclasses
import glob
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from configs.errors import UsageError
from configs.json_text import json_text
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.inputs import nearest_path
from configs.reading.saved import read_config
from inference.requests import Request, Sampling
from parallel.environment import keep_compiled, set_environment

if TYPE_CHECKING:
    from flax import nnx

    from data.codecs.tokenizers import Tokenizer
    from inference.answers import Answer
    from inference.classification import Classified
    from inference.files import Unreadable
    from inference.translation import Translator
    from training.restore import Restored

TEXT_FLAGS = (
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
    Flag("stop", meaning="a text ends before the first of these", repeatable=True),
    Flag("seed", meaning=f"start of the random choices ({Sampling.seed})", type=int),
    Flag("stream", meaning="write each text as it grows", switch=True),
)
SEARCH_FLAGS = (
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
)
FLAGS = (
    Flag("workdir", meaning="the folder that train.py wrote", required=True),
    Flag("step", meaning="a checkpoint's number, `best` or `latest`", default="latest"),
    Flag("weights", meaning="the averaged or the raw weights", choices=("ema", "raw")),
    *TEXT_FLAGS,
    *SEARCH_FLAGS,
    Flag(
        "input",
        meaning="a picture, a recording, or a text to translate by lines; or a glob of several",
        repeatable=True,
    ),
    Flag("json", meaning="write one JSON object a line", switch=True),
)
Found = TypeVar("Found")
FILES = {
    "pictures": "picture",
    "transcribed_sound": "recording",
    "labelled_sound": "recording",
}
"""By the modality of the data, what kind of file a model reads."""

LABELS_SHOWN = 5
LINES_AT_ONCE = 1024  # of texts to translate: so many are read before the first is written
RECORDINGS_AT_ONCE = 256  # of those to write down: so many are sorted by their lengths


def main(argv: Sequence[str]) -> int:
    """Restores, answers, prints. Returns the exit status."""
    arguments = parse_command_line(argv, FLAGS, overrides=False)
    workdir = Path(arguments.workdir)
    config = read_config(workdir)
    needs, modality = config.task.needs, config.data.modality
    if needs != "target_tokens":
        searches = needs == "transcript"
        others = [flag for flag in SEARCH_FLAGS if not (searches and flag.name == "beam_size")]
        refuse(others, arguments, "is for models that translate", config.task.name)
    if needs == "next_tokens":
        requests = text_requests(arguments)
    elif needs == "target_tokens":
        check_translation(arguments, config.task.name)
    elif modality in FILES:
        check_files(arguments, FILES[modality])
    else:
        check_texts(arguments, config.task.name)
    set_environment(config)

    import jax

    from data.cache import cache_dir
    from parallel.mesh import flat_mesh
    from training.restore import restore_model

    keep_compiled(cache_dir(config.data))
    restored = restore_model(
        workdir,
        config,
        step=arguments.step,
        weights=arguments.weights,
        # One device: a step of one token is bound by reading the weights, not by computing.
        mesh=flat_mesh(jax.devices()[:1]),
        warn=say,
    )
    if needs == "next_tokens":
        complete(restored, workdir, requests, stream=arguments.stream, as_json=arguments.json)
    elif needs == "target_tokens":
        translate(restored, workdir, arguments)
    elif needs == "missing_tokens":
        fill_in(restored, workdir, arguments.prompt, as_json=arguments.json)
    elif needs == "transcript":
        transcribe(restored, workdir, arguments)
    elif modality in FILES:
        classify(restored, arguments)
    else:
        classify_texts(restored, workdir, arguments.prompt, as_json=arguments.json)
    return 0


def refuse(
    flags: Iterable[Flag], arguments: SimpleNamespace, reason: str, task: str, instead: str = ""
) -> None:
    """Raises `UsageError` where one of `flags` is given."""
    for flag in flags:
        if getattr(arguments, flag.name) not in (None, False, ()):
            raise UsageError(
                f"--{flag.name} {reason}, and this one was trained for {task}{instead}"
            )


def text_requests(arguments: SimpleNamespace) -> list[Request]:
    """What is asked of a language model; raises `UsageError` for what can't be."""
    if arguments.input:
        raise UsageError("--input is for pictures, and this model writes text: give --prompt")
    if not arguments.prompt:
        raise UsageError("--prompt is missing: --prompt=VALUE (a text to go on with)")
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen = [field.name for field in dataclasses.fields(Sampling) if field.name in given]
    limits = {name: given[name] for name in ("max_tokens", "stop") if name in given}
    try:
        sampling = Sampling(**{name: given[name] for name in chosen})
        return [Request(prompt, sampling=sampling, **limits) for prompt in arguments.prompt]
    except UsageError as error:  # "temperature must be >= 0, ..."
        raise UsageError(f"--{error}") from None


def check_files(arguments: SimpleNamespace, kind: str) -> None:
    """Raises `UsageError` for what can't be asked of a model that reads files of a `kind`."""
    for flag in TEXT_FLAGS:
        if getattr(arguments, flag.name) not in (None, False, ()):
            raise UsageError(
                f"--{flag.name} is for texts, and this model reads {kind}s: give --input=FILE"
            )
    if not arguments.input:
        raise UsageError(f"--input is missing: --input=VALUE (a {kind} file)")
    arguments.input = input_files(arguments.input, f"a {kind}")


def input_files(
    given: Sequence[str], kind: str, *, or_standard_input: bool = False
) -> tuple[str, ...]:
    """The files that --input names, those of a glob in the order of their names; raises
    `UsageError` where one is not there. kind: what each is to be. - is standard input."""
    found: list[str] = []
    for path in given:
        if Path(path).is_file() or (path == "-" and or_standard_input):
            found.append(path)
        elif Path(path).is_dir():
            raise UsageError(
                f"--input={path} is a folder: give {kind} in it, or a glob in quotes for several"
            )
        elif glob.has_magic(path):
            files = sorted(filter(os.path.isfile, glob.iglob(path, recursive=True)))
            if not files:
                raise UsageError(f"--input={path}: no file matches")
            found += files
        else:
            near = nearest_path(path)
            hint = f", did you mean {near}?" if near else ""
            raise UsageError(f"--input={path}: no such file{hint}")
    return tuple(found)


def check_texts(arguments: SimpleNamespace, task: str) -> None:
    """Raises `UsageError` for what can't be asked of a model that reads texts and writes none."""
    others = (flag for flag in TEXT_FLAGS if flag.name != "prompt")
    refuse(others, arguments, "is for models that write texts", task, ": give --prompt alone")
    if arguments.input:
        raise UsageError("--input is for pictures, and this model reads texts: give --prompt")
    if not arguments.prompt:
        raise UsageError("--prompt is missing: --prompt=VALUE (a text)")


def check_translation(arguments: SimpleNamespace, task: str) -> None:
    """Raises `UsageError` for what can't be asked of a model that writes one text for another."""
    others = (flag for flag in TEXT_FLAGS if flag.name != "prompt")
    refuse(others, arguments, "is for language models", task, ": give --input=FILE or --prompt")
    if not arguments.input and not arguments.prompt:
        raise UsageError(
            "--input is missing: --input=VALUE (a text file to translate line by line; - for "
            "standard input), or --prompt=VALUE (a text)"
        )
    arguments.input = input_files(arguments.input, "a text file", or_standard_input=True)


def complete(
    restored: "Restored",
    workdir: Path,
    requests: Sequence[Request],
    *,
    stream: bool,
    as_json: bool,
) -> None:
    """Writes the completions of `requests`, in their order."""
    from data.codecs.chat import for_prompts
    from inference.generation import Generator
    from inference.output import Writer

    tokenizer, config = load_tokenizer(workdir), restored.model_def.config
    for request in requests:
        if tokenizer.decode(tokenizer.encode(request.prompt)) != request.prompt:
            say(f"the prompt {request.prompt!r} has characters that the training text has not")
    generator = Generator(
        for_prompts(tokenizer, config.data),
        context=restored.model_def.data_spec.max_length,
        mesh=restored.model_def.mesh,
        rules=config.mesh.rules.model_dump(),
    )
    writer = Writer([request.prompt for request in requests], as_json=as_json)
    completions = generator.complete(restored.module, requests, writer.write if stream else None)
    if not stream:
        for index, completion in enumerate(completions):
            writer.write(index, completion.text, completion)


def translate(restored: "Restored", workdir: Path, arguments: SimpleNamespace) -> None:
    """Writes the translation of each prompt, then of each line of the inputs."""
    from inference.translation import Translator

    tokenizer, config = load_tokenizer(workdir), restored.model_def.config
    module = restored.module
    asked = {flag.name: getattr(arguments, flag.name) for flag in SEARCH_FLAGS}
    asked = {name: value for name, value in asked.items() if value is not None}
    config = config.model_copy(update={"task": config.task.model_copy(update=asked)})
    spec = restored.model_def.data_spec
    translator = Translator.of(config, tokenizer, spec, restored.model_def.mesh)
    sources = texts_to_translate(arguments)
    write_answers(translations(translator, tokenizer, module, sources), "source", arguments)


def translations(
    translator: "Translator",
    tokenizer: "Tokenizer",
    module: "nnx.Module",
    sources: "Iterator[tuple[str, str] | Unreadable]",
) -> "Iterator[tuple[str, Answer] | Unreadable]":
    """Each of `sources`, which are places and texts, with its translation, in their order."""
    while some := list(itertools.islice(sources, LINES_AT_ONCE)):
        there = [one for one in some if isinstance(one, tuple)]
        texts = [text for _, text in there]
        for (place, _), ids in zip(there, tokenizer.encode_many(texts), strict=True):
            if len(ids) > translator.longest:
                say(f"{place} has {len(ids)} tokens, of which this model reads the first "
                    f"{translator.longest}")  # fmt: skip
        answers = iter(translator.translate(module, texts))
        for one in some:
            yield (one[1], next(answers)) if isinstance(one, tuple) else one


def texts_to_translate(arguments: SimpleNamespace) -> "Iterator[tuple[str, str] | Unreadable]":
    """Where each text stands, in words, and itself; `Unreadable` for a line that is no UTF-8.
    Raises `UsageError` for a file that is no text."""
    from inference.files import Unreadable

    for number, prompt in enumerate(arguments.prompt, start=1):
        yield f"prompt {number}", prompt
    for path in arguments.input:
        with contextlib.ExitStack() as opened:
            file = sys.stdin.buffer if path == "-" else opened.enter_context(Path(path).open("rb"))
            for number, line in enumerate(file, start=1):
                place = f"line {number} of {'standard input' if path == '-' else path}"
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if b"\0" in line:  # UTF-16, or no text at all
                    raise UsageError(f"{place} is no UTF-8 text, it has a NUL: convert the file")
                try:
                    yield place, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    byte = f"byte 0x{line[error.start]:02x}"
                    yield Unreadable(place, f"no UTF-8 text, {byte}")


def answered(
    found: "Iterable[Found | Unreadable]", arguments: SimpleNamespace
) -> "Iterator[Found]":
    """The answers among `found`. What could not be read is told, with an empty line or an object
    with its `error` in its place; after the last answer it is a `UsageError`."""
    from inference.files import Unreadable

    count = unread = 0
    for one in found:
        count += 1
        if not isinstance(one, Unreadable):
            yield one
            continue
        if arguments.input == (one.input,):
            raise UsageError(f"{one.input}: {one.reason}")
        unread += 1
        say(f"{one.input}: {one.reason}")
        print(json_text({"input": one.input, "error": one.reason}) if arguments.json else "")
    if unread:
        raise UsageError(f"{unread} of {count} inputs could not be read")


def write_answers(
    found: "Iterable[tuple[str, Answer] | Unreadable]", asked: str, arguments: SimpleNamespace
) -> None:
    """The text of each answer, in a line; `asked` is the field of what it answers."""
    for name, answer in answered(found, arguments):
        if arguments.json:
            line = json_text({asked: name, "text": answer.text, "score": answer.score})
        else:
            line = " ".join(answer.text.splitlines())
        print(line, flush=True)


def fill_in(restored: "Restored", workdir: Path, prompts: Sequence[str], *, as_json: bool) -> None:
    """Writes the prompts with their gaps filled."""
    from inference import filling
    from inference.output import heading

    found = filling.fill_in(
        restored.module,
        prompts,
        tokenizer=load_tokenizer(workdir),
        length=restored.model_def.data_spec.max_length,
    )
    for index, filled in enumerate(found):
        print(json_text(vars(filled)) if as_json else heading(prompts, index) + filled.text)


def transcribe(restored: "Restored", workdir: Path, arguments: SimpleNamespace) -> None:
    """Writes what is said in each recording."""
    from inference.answers import make_answerer
    from inference.files import answer_files
    from inference.recordings import recording_reader

    config, data_spec = restored.model_def.config, restored.model_def.data_spec
    if arguments.beam_size is not None:
        asked = {"decoder": "beam", "beam_size": arguments.beam_size}
        config = config.model_copy(update={"task": config.task.model_copy(update=asked)})
    transcriber = make_answerer(config, load_tokenizer(workdir), data_spec, restored.model_def.mesh)
    found = answer_files(
        arguments.input,
        recording_reader(config.data, data_spec),
        lambda names, recordings: [
            *zip(names, transcriber.transcribe(restored.module, recordings), strict=True)
        ],
        RECORDINGS_AT_ONCE,
    )
    write_answers(found, "input", arguments)


def classify(restored: "Restored", arguments: SimpleNamespace) -> None:
    """Writes what the model makes of each picture, or of each recording."""
    from inference import classification
    from inference.classification import classify_recordings
    from inference.recordings import recording_reader

    data_spec, settings = restored.model_def.data_spec, restored.model_def.config.data
    if settings.modality == "pictures":
        found = classification.classify(
            restored.module,
            arguments.input,
            shape=data_spec.image_shape,
            classes=data_spec.classes,
            crop_ratio=settings.crop_ratio,
        )
    else:
        found = classify_recordings(
            restored.module,
            arguments.input,
            read=recording_reader(settings, data_spec),
            classes=data_spec.classes,
        )
    write_labels(answered(found, arguments), as_json=arguments.json)


def classify_texts(
    restored: "Restored", workdir: Path, texts: Sequence[str], *, as_json: bool
) -> None:
    """Writes what the model makes of each text."""
    from inference import classification

    data_spec, tokenizer = restored.model_def.data_spec, load_tokenizer(workdir)
    length = data_spec.max_length
    for number, text in enumerate(texts, start=1):
        if (count := len(tokenizer.framed(tokenizer.encode(text)))) > length:
            say(f"prompt {number} has {count} tokens, of which this model reads the first {length}")
    found = classification.classify_texts(
        restored.module,
        texts,
        tokenizer=tokenizer,
        length=length,
        classes=data_spec.classes,
    )
    write_labels(found, as_json=as_json)


def write_labels(found: "Iterable[Classified]", *, as_json: bool) -> None:
    """The label of each, and the likeliest ones."""
    for one in found:
        if as_json:
            print(json_text(vars(one)))
        else:
            likeliest = one.likeliest(LABELS_SHOWN)
            print(one.label, " ".join(f"{name}={p:.4f}" for name, p in likeliest), sep="\t")


def load_tokenizer(workdir: Path) -> "Tokenizer":
    """The tokenizer of the workdir; raises `UsageError` where it is damaged."""
    from data.codecs.tokenizers import Tokenizer

    try:
        return Tokenizer.load(workdir / "tokenizer.json")
    except ValueError as error:
        raise UsageError(str(error)) from None


def say(text: str) -> None:
    """A line for the user, apart from the answers."""
    print(f"generate.py: {text}", file=sys.stderr)


if __name__ == "__main__":
    run_verb(main)
