"""The web page in a browser, as the tests see it: opened, looked at, filled in and read."""

import io
import os
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.serving.servers import RunningServer

MILLISECONDS = 120_000
"""How long the browser waits for what a test expects."""

SCREENSHOTS = os.environ.get("TRIFORM_SCREENSHOTS")
"""A folder for pictures of the page at the widths of a desktop and of a phone, light and dark: they
are for people to look at."""

LOOKS = [
    (width, scheme)
    for width in (1280, 360)
    for scheme in (("light", "dark") if SCREENSHOTS else ("light",))
]

Handler = Callable[[Any], None]
"""Answers a request of the page: it gets Playwright's route."""


@contextmanager
def opened(
    browser,
    server: RunningServer,
    panel: str,
    *,
    width: int = 1280,
    scheme: str = "light",
    path: str = "/",
    handlers: Mapping[str, Handler] | None = None,
    may_fail: bool = False,
    **options,
):
    """Open the page, and wait for a panel. At the end, check that the console had no error and that
    no request left the server.

    handlers: who answers requests in place of the server, by the ends of their paths. may_fail:
    whether requests may fail, which a console shows as errors. options: of the browser's context.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        permissions=["microphone", "camera", "clipboard-read", "clipboard-write"],
        **options,
    )
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    problems: list[str] = []
    addresses: list[str] = []
    page.on("console", lambda one: problems.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: problems.append(str(one)))
    page.on("request", lambda one: addresses.append(one.url))
    for end, handler in (handlers or {}).items():
        page.route(f"**{end}", handler)
    page.goto(server.url + path)
    page.wait_for_selector(f"{panel}:visible")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    look(page, f"{server.model}{path.replace('/', '_')}_{width}_{scheme}")
    context.close()
    if may_fail:
        problems = [one for one in problems if not one.startswith("Failed to load resource")]
    assert problems == []
    local = (server.url + "/", f"blob:{server.url}/", "data:")
    assert addresses and [one for one in addresses if not one.startswith(local)] == []


def described_as(**changes: object) -> Handler:
    """Return a handler of `/v1/info` that answers as the server does, but for some fields."""
    return lambda route: route.fulfill(json=route.fetch().json() | changes)


def look(page, name: str) -> None:
    """Save a picture of the page, if they are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


def setting(page, name: str, value: str) -> None:
    page.locator("#settings").evaluate("one => (one.open = true)")
    page.fill(f"#settings [data-name={name}]", value)


def tone(rate: int, seconds: float) -> bytes:
    """Return a WAV file with a tone of 440 Hz."""
    times = np.arange(int(rate * seconds)) / rate
    samples = (np.sin(2 * np.pi * 440 * times) * 12_000).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return content.getvalue()


def bars(page) -> dict[str, str]:
    """Return the labels of the bars that are shown, in order, and their shares."""
    rows = page.locator(".bars li")
    labels, shares = (rows.locator(f".{part}").all_inner_texts() for part in ("label", "share"))
    return dict(zip(labels, shares, strict=True))


def called(call: str, language: str, folder: Path) -> str:
    """Run a call in a folder; return what it prints."""
    if language == "python":
        command = [sys.executable, "-c", call]
    else:
        command = ["sh", "-c", call.replace("curl ", "curl --silent ", 1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout
