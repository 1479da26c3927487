"""A browser, and servers for its page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.verbs import run
from tests.long.browsing import tone
from tests.serving.servers import GOLDEN, SMALL, RunningServer, serving

LISTENER = {
    "data__recordings": "80",
    "data__num_mels": "24",
    "data__length_buckets": "1",
    "data__global_batch_size": "8",
    "model__width": "16",
    "model__depth": "1",
    "model__pattern": "C",
    "model__subsampling_channels": "4",
    "train__steps": "3",
    "optimizer__learning_rate": "1e-4",
}
"""Little more than initial values: what such a model writes is nonsense, and not nothing."""


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory) -> Path:
    """A recording that the browser's microphone hears again and again."""
    path = tmp_path_factory.mktemp("sound") / "tone.wav"
    path.write_bytes(tone(48_000, 2.0))
    return path


@pytest.fixture(scope="module")
def browser(sound_file) -> Iterator:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no program chromium")
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound_file}",
    ]
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def text_server(tmp_path_factory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("text") / "log"
    fields = SMALL | {"serve.max_tokens": "1000000"}  # A text may outlast a test.
    with serving(GOLDEN / "recurrence_text", log, fields=fields) as one:
        yield one


@pytest.fixture(scope="module")
def chat_server(tmp_path_factory) -> Iterator[RunningServer]:
    from tests.serving.chats import train_chat

    folder = tmp_path_factory.mktemp("chat")
    workdir = train_chat(folder / "chat", folder / "conversations.jsonl", None)
    with serving(workdir, folder / "log") as one:
        yield one


@pytest.fixture(scope="module")
def picture_server(tmp_path_factory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("pictures") / "log"
    with serving(GOLDEN / "convolution_pictures", log) as one:
        yield one


@pytest.fixture(scope="module")
def listener(tmp_path_factory) -> Path:
    """The workdir of a model that transcribes recordings."""
    workdir = tmp_path_factory.mktemp("listener") / "tones"
    run("train.py", "--config=configs/tones_ctc.py", f"--workdir={workdir}", **LISTENER)
    return workdir


@pytest.fixture(scope="module")
def sound_server(listener, tmp_path_factory) -> Iterator[RunningServer]:
    with serving(listener, tmp_path_factory.mktemp("sounds") / "log") as one:
        yield one
