"""A server for each kind of model, whose routes differ."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from configs.data_spec import DataSpec
from data.codecs.tokenizers import Tokenizer
from inference.loading import LoadedModel
from tests.serving.chats import TEMPLATE, train_chat
from tests.serving.in_process import ThreadServer, serving_model, tone, untrained
from tests.serving.servers import GOLDEN, SMALL, RunningServer, serving

WORKDIRS = {
    "text": "recurrence_text",
    "speech": "recurrence_sound",
    "picture": "attention_pictures",
    "pairs": "attention_pairs",
}

KINDS = (*WORKDIRS, "chat", "gaps", "labels")

LENGTH = 24
"""Tokens of a text, for the models that nobody has trained."""


@contextlib.contextmanager
def serving_kind(
    kind: str, folder: Path, *, fields: Mapping[str, str] = SMALL
) -> Iterator[RunningServer | ThreadServer]:
    """Serve a model of a kind until the block ends. folder: where to write the log, and a workdir
    if the model is trained first."""
    if kind in ("gaps", "labels"):
        limits = {name.removeprefix("serve."): int(number) for name, number in fields.items()}
        with serving_model(_untrained(kind), **limits) as server:
            yield server
        return
    if kind == "chat":
        workdir = train_chat(folder / "chat", folder / "chat.jsonl", TEMPLATE)
    else:
        workdir = GOLDEN / WORKDIRS[kind]
    with serving(workdir, folder / "log", fields=fields) as running:
        yield running


def _untrained(kind: str) -> LoadedModel:
    """Return a model of single characters that fills in gaps, or labels texts."""
    tokenizer = Tokenizer.characters(["abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    classes = None if kind == "gaps" else ("cat", "dog", "horse")
    spec = DataSpec(
        vocabulary_size=tokenizer.vocabulary_size,
        max_length=LENGTH,
        **({} if classes is None else {"num_classes": 3, "classes": classes}),
    )
    fields = {"model__width": "16", "model__depth": "1", "model__num_heads": "2"}
    fields["data__sequence_length"] = str(LENGTH)
    if kind == "gaps":
        return untrained("masked_language_model", tokenizer, spec, **fields)
    return untrained("text_classification", tokenizer, spec, **fields, data__path=__file__)


def file_of(kind: str) -> bytes:
    """Return a file that models of a kind read; empty if they read none."""
    if kind == "speech":
        return tone(0.3)
    if kind == "picture":
        file = io.BytesIO()
        Image.linear_gradient("L").resize((12, 10)).save(file, "PNG")
        return file.getvalue()
    return b""
