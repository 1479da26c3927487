"""A server for each kind of model, whose routes differ."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.serving.chats import TEMPLATE, train_chat
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
