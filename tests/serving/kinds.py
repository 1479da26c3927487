"""A server for each kind of model, whose routes differ."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from tests.serving.chats import TEMPLATE, train_chat
from tests.serving.in_process import tone
from tests.serving.servers import GOLDEN, SMALL, RunningServer, serving

WORKDIRS = {
    "text": "recurrence_text",
    "speech": "recurrence_sound",
    "picture": "attention_pictures",
    "pairs": "attention_pairs",
}

KINDS = (*WORKDIRS, "chat")


@contextlib.contextmanager
def serving_kind(
    kind: str, folder: Path, *, fields: Mapping[str, str] = SMALL
) -> Iterator[RunningServer]:
    """Serve a model of a kind until the block ends. folder: where to write the log, and a workdir
    if the model is trained first."""
    if kind == "chat":
        workdir = train_chat(folder / "chat", folder / "chat.jsonl", TEMPLATE)
    else:
        workdir = GOLDEN / WORKDIRS[kind]
    with serving(workdir, folder / "log", fields=fields) as server:
        yield server


def file_of(kind: str) -> bytes:
    """Return a file that models of a kind read; empty if they read none."""
    if kind == "speech":
        return tone(0.3)
    if kind == "picture":
        file = io.BytesIO()
        Image.linear_gradient("L").resize((12, 10)).save(file, "PNG")
        return file.getvalue()
    return b""
