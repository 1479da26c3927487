"""The web page in a real browser: Chromium, driven by Playwright."""

import ast
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from inference.loading import load_model
from tests.long.browsing import LOOKS, MILLISECONDS, bars, called, look, opened, setting, tone
from tests.serving.servers import GOLDEN, RunningServer, serving
from tests.serving.sockets import wait_until

DROP = """
([name, type, content]) => {
  const bytes = Uint8Array.from(content);
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}
"""


def transcript(workdir: Path, recording: Path) -> str:
    """Return what the model writes without a server. It must not be nothing."""
    ((_, written),) = load_model(workdir).predict(input=[str(recording)])
    assert written.text
    return written.text


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_completion_streams_and_is_the_text_of_its_seed(browser, text_server, width, scheme):
    fields = {"prompt": "0 times 0 ", "seed": 3, "max_tokens": 40}
    answer = text_server.ask("/v1/completions", {"model": text_server.model} | fields)
    with opened(browser, text_server, "#text-panel", width=width, scheme=scheme) as page:
        page.fill("#prompt", fields["prompt"])
        setting(page, "seed", "3")
        setting(page, "max_tokens", "40")
        page.click("#text-run")
        page.wait_for_selector("#text-outputs article[aria-busy=false]")
        (choice,) = answer["choices"]
        assert page.locator(".written").text_content() == choice["text"]
        note = page.locator("#text-outputs .note").inner_text()
        assert choice["finish_reason"] == "stop" and note.startswith("complete · ")
        assert f"{answer['usage']['completion_tokens']} tokens" in note
        assert page.locator("#text-run").is_enabled() and page.locator("#problem").is_hidden()


def test_a_completion_is_stopped(browser, text_server):
    """Its text stays, the server is told, and the next text is written."""
    before = len(left(text_server))
    with opened(browser, text_server, "#text-panel") as page:
        page.fill("#prompt", "0 times 0 ")
        setting(page, "max_tokens", "1000000")
        setting(page, "seed", "1")
        page.fill("#stops", "no such text")
        page.locator("#text-run").focus()
        # The end of a text is made unlikely, so that it would go on for long.
        page.route("**/v1/completions", lambda route: route.continue_(post_data=endless(route)))
        page.keyboard.down("Enter")
        page.wait_for_selector("#text-stop:focus")
        page.keyboard.down("Enter")  # A key that is held repeats: it does not stop what it began.
        page.keyboard.up("Enter")
        page.wait_for_selector(".written:not(:empty)")
        assert page.locator("#text-outputs article").get_attribute("aria-busy") == "true"
        assert page.locator("#text-stop:focus").count() == 1
        page.keyboard.press("Enter")
        page.wait_for_selector("#text-outputs article[aria-busy=false]")
        assert page.locator("#text-outputs .note").inner_text() == "stopped"
        text = page.locator(".written").text_content()
        assert 0 < len(text) < 1_000_000
        setting(page, "max_tokens", "5")
        page.click("#text-run")
        page.wait_for_selector("#text-outputs article[aria-busy=false] .note:has-text('tokens')")
        note = page.locator("#text-outputs .note").inner_text()
        assert note.startswith("the limit of 5 tokens was reached · 5 tokens in ")
    wait_until(lambda: left(text_server)[before:])
    assert left(text_server)[before:] == ["/v1/completions"]


def left(server: RunningServer) -> list[object]:
    """Return the paths of the requests that clients have left, as the server has logged them."""
    return [line["path"] for line in server.lines() if line.get("status") == 499]


def endless(route) -> dict:
    """Return the body of a request for a text that does not end by itself."""
    return route.request.post_data_json | {"logit_bias": {str(SEPARATOR): -100}}


SEPARATOR = 0
"""The token that ends a text of the model `recurrence_text`."""


def test_the_probabilities_of_tokens_are_shown_by_keys_too(browser, text_server):
    fields = {"prompt": "0 times 0 ", "seed": 3, "max_tokens": 12, "logprobs": 5}
    answer = text_server.ask("/v1/completions", {"model": text_server.model} | fields)
    scores = answer["choices"][0]["logprobs"]
    with opened(browser, text_server, "#text-panel", scheme="dark") as page:
        page.fill("#prompt", fields["prompt"])
        setting(page, "seed", "3")
        setting(page, "max_tokens", "12")
        page.check("#logprobs")
        page.click("#text-run")
        page.wait_for_selector("#text-outputs article[aria-busy=false]")
        assert page.locator(".token").count() == len(scores["tokens"])
        page.locator(".token").first.focus()
        page.keyboard.press("End")
        shown = bars(page.locator(".alternatives"))
        likeliest = sorted(scores["top_logprobs"][-1].values())[::-1]
        assert list(shown.values()) == [f"{100 * np.exp(one):.1f} %" for one in likeliest]
        look(page, "recurrence_text_scores")


WATCH_COPY = """
() => {
  const copy = document.getElementById("copy");
  const look = () => copy.textContent === "Copied" && (copy.dataset.hasSaidSo = "");
  new MutationObserver(look).observe(copy, { childList: true });
}
"""
"""Notes that the button has said so: after two seconds, it has its own text again."""


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_call_that_is_shown_works(browser, text_server, language, tmp_path):
    with opened(browser, text_server, "#text-panel") as page:
        page.fill("#prompt", "it's 0 \\ times\n")
        for name, value in (("seed", "5"), ("max_tokens", "8"), ("top_k", "12")):
            setting(page, name, value)
        page.click("#text-run")
        page.wait_for_selector("#text-outputs article[aria-busy=false]")
        written = page.locator(".written").text_content()
        page.check(f"[name=language][value={language}]")
        page.evaluate(WATCH_COPY)
        page.click("#copy")
        page.wait_for_selector("#copy[data-has-said-so]")
        call = page.evaluate("navigator.clipboard.readText()")
    said = called(call, language, tmp_path)
    if language == "curl":
        events = [line.removeprefix("data: ") for line in said.split("\n\n")]
        chunks = [json.loads(event) for event in events if event.startswith("{")]
        said = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert said == written


SETTINGS = {
    "temperature": "0.9",
    "max_tokens": "24",
    "top_p": "0.9",
    "top_k": "50",
    "min_p": "0.01",
    "seed": "7",
    "repetition_penalty": "1.1",
    "frequency_penalty": "0.1",
    "presence_penalty": "0.1",
}


@pytest.mark.parametrize("mode", ["text", "chat"])
def test_the_call_in_python_works_with_all_settings(browser, chat_server, mode, tmp_path):
    """What OpenAI's client has no parameter for is sent too. The chat is streamed, the text not."""
    with opened(browser, chat_server, "#chat-panel") as page:
        page.check(f"[name=mode][value={mode}]")
        for name, value in SETTINGS.items():
            setting(page, name, value)
        page.fill("#stops", "no such text")
        page.check("#logprobs")
        page.check("#json")
        page.set_checked("#stream", mode == "chat")
        page.fill("#prompt" if mode == "text" else "#message", "0?")
        page.click("#text-run" if mode == "text" else "#chat-send")
        page.wait_for_selector("#call:visible")
        written = "".join(page.locator(".token").all_text_contents())
        page.check("[name=language][value=python]")
        call = page.locator("#call-code").text_content()
    assert "response_format" in call and "repetition_penalty" in call
    assert (
        written
        and called(call, "python", tmp_path).removesuffix("\n" * (mode == "text")) == written
    )


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_conversation_goes_on(browser, chat_server, width, scheme):
    """Each turn sends the earlier ones; the answers are those of the seed."""
    messages = [{"role": "system", "content": "Be short."}]
    with opened(browser, chat_server, "#chat-panel", width=width, scheme=scheme) as page:
        page.locator("#settings").evaluate("one => (one.open = true)")
        page.fill("#system", "Be short.")
        setting(page, "seed", "4")
        setting(page, "max_tokens", "16")
        for number, said in enumerate(("0?", "<b>And</b> 1?")):
            page.fill("#message", said)
            page.press("#message", "Enter")
            page.wait_for_selector(f"#conversation li >> nth={2 * number + 1}")
            page.wait_for_selector("#conversation article[aria-busy=true]", state="detached")
            messages.append({"role": "user", "content": said})
            fields = {"messages": messages, "seed": 4, "max_completion_tokens": 16}
            answer = chat_server.ask("/v1/chat/completions", {"model": "chat"} | fields)
            messages.append(
                {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
            )
        shown = page.locator("#conversation .text").all_text_contents()
        assert shown == [one["content"] for one in messages[1:]]
        page.check("[name=mode][value=text]")
        page.wait_for_selector("#text-panel:visible")
        page.check("[name=mode][value=chat]")
        page.wait_for_selector("#chat-panel:visible")


def test_a_text_is_translated(browser, tmp_path):
    (expected,) = load_model(GOLDEN / "attention_pairs").predict(prompt=["3 May 2001"])
    assert expected[1].text
    with (
        serving(GOLDEN / "attention_pairs", tmp_path / "log") as server,
        opened(browser, server, "#input-panel") as page,
    ):
        page.fill("#input", "3 May 2001")
        page.press("#input", "Control+Enter")
        page.wait_for_selector("#input-result article")
        assert page.locator("#input-result .text").text_content() == expected[1].text
        said = called(page.locator("#call-code").text_content(), "curl", tmp_path)
        assert json.loads(said)["data"][0]["text"] == expected[1].text
        page.check("[name=language][value=python]")
        said = called(page.locator("#call-code").text_content(), "python", tmp_path)
        assert ast.literal_eval(said)["data"][0]["text"] == expected[1].text


def test_a_token_is_asked_for_and_kept_in_the_tab_only(browser, tmp_path):
    """Without a token nothing is shown. The report can't be a link then: it is saved."""
    workdir = tmp_path / "recurrence_text"
    shutil.copytree(GOLDEN / "recurrence_text", workdir)
    (workdir / "report.html").write_text("<p>The report.", encoding="utf-8")
    (tmp_path / "tokens").write_text("right")
    flag = f"--token_file={tmp_path / 'tokens'}"
    with serving(workdir, tmp_path / "log", flag) as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(server.url)
        for given in ("wrong", "right"):
            page.wait_for_selector("#token-dialog[open]")
            page.fill("#token", given)
            page.keyboard.press("Enter")
        page.wait_for_selector("#text-panel:visible")
        page.fill("#prompt", "0")
        page.click("#text-run")
        page.wait_for_selector("#call:visible")
        assert "Bearer $TRIFORM_TOKEN" in page.locator("#call-code").inner_text()
        assert "right" not in page.content() and page.locator("#report-link").is_hidden()
        with page.expect_download() as saved:
            page.click("#report-save")
        assert saved.value.path().read_text(encoding="utf-8") == "<p>The report."
        page.reload()
        page.wait_for_selector("#text-panel:visible")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        other = context.new_page()
        other.goto(server.url)
        other.wait_for_selector("#token-dialog[open]", timeout=MILLISECONDS)
        context.close()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_picture_is_dropped_and_its_bars_are_right(
    browser, picture_server, tmp_path, width, scheme
):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    path = tmp_path / "digit.png"
    Image.fromarray(pixels).save(path)
    (expected,) = load_model(GOLDEN / "convolution_pictures").predict(input=[str(path)])
    with opened(browser, picture_server, "#file-panel", width=width, scheme=scheme) as page:
        page.evaluate(DROP, [path.name, "image/png", list(path.read_bytes())])
        page.wait_for_selector(".verdict")
        assert page.locator(".verdict").inner_text() == expected.label
        likeliest = sorted(expected.scores.items(), key=lambda item: -item[1])
        assert bars(page) == {label: f"{100 * score:.1f} %" for label, score in likeliest}
        width_of_bar = page.locator(".bars .fill").first.evaluate("one => one.style.width")
        assert float(width_of_bar.strip("%")) == pytest.approx(100 * likeliest[0][1], abs=0.01)


def test_a_picture_is_taken_with_the_camera(browser, picture_server):
    with opened(browser, picture_server, "#file-panel") as page:
        page.click("#camera")
        page.click("#camera-take")
        page.wait_for_selector(".verdict")
        assert page.locator(".bars li").count() == 10
        assert page.locator("#preview img").get_attribute("alt") == "picture.png"


def test_a_recording_from_a_file_is_transcribed(browser, listener, sound_server, tmp_path):
    path = tmp_path / "tone.wav"
    path.write_bytes(tone(8000, 1.0))
    with opened(browser, sound_server, "#file-panel") as page:
        page.set_input_files("#file", path)
        page.wait_for_selector("#file-result article")
        shown = page.locator("#file-result .text").text_content()
    assert shown == transcript(listener, path)


@pytest.mark.parametrize("language", ["curl", "python"])
@pytest.mark.parametrize("kind", ["picture", "recording"])
def test_the_call_for_a_file_works(request, browser, tmp_path, kind, language):
    from PIL import Image

    server = request.getfixturevalue("picture_server" if kind == "picture" else "sound_server")
    path = tmp_path / ("a \"9'.png" if kind == "picture" else "tone.wav")
    if kind == "picture":
        Image.new("L", (8, 8), 90).save(path)
    else:
        path.write_bytes(tone(8000, 1.0))
    with opened(browser, server, "#file-panel") as page:
        page.set_input_files("#file", path)
        page.wait_for_selector("#file-result :is(.verdict, article)")
        shown = page.locator("#file-result :is(.verdict, .text)").text_content()
        page.check(f"[name=language][value={language}]")
        said = called(page.locator("#call-code").text_content(), language, tmp_path)
    if (kind, language) == ("recording", "python"):
        assert said.removesuffix("\n") == shown
    else:
        answer = json.loads(said) if language == "curl" else ast.literal_eval(said)
        assert answer["label" if kind == "picture" else "text"] == shown


def test_the_report_opens_in_a_page_of_its_own(browser, sound_server):
    with opened(browser, sound_server, "#file-panel") as page:
        with page.context.expect_page() as shown:
            page.click("#report-link")
        report = shown.value
        report.wait_for_selector("h1")  # A page whose first load goes on can't be loaded again.
        problems: list[str] = []
        report.on("console", lambda one: problems.append(one.text))
        report.reload()
        report.wait_for_selector("h1")
        assert report.evaluate("origin") == "null" and problems == []
        assert "serif" in report.evaluate("getComputedStyle(document.body).fontFamily")
        look(report, "report")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_microphone_is_recorded_as_wav_and_transcribed(
    browser, listener, sound_server, tmp_path, width, scheme
):
    with opened(browser, sound_server, "#file-panel", width=width, scheme=scheme) as page:
        bodies: list[bytes] = []

        def keep(route) -> None:
            bodies.append(route.request.post_data_buffer)
            route.continue_()

        page.route("**/v1/audio/transcriptions", keep)
        page.click("#record")
        page.wait_for_selector("#recording-time:text-matches('^[1-9]')")
        page.click("#record")
        page.wait_for_selector("#file-result article")
        shown = page.locator("#file-result .text").text_content()
    (body,) = bodies
    recording = tmp_path / "recording.wav"
    recording.write_bytes(body[body.index(b"RIFF") : body.rindex(b"\r\n--", 0, -4)])
    assert shown == transcript(listener, recording)
    with wave.open(str(recording)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert form == (1, 2, 8000) and len(samples) >= 8000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * 8000 / len(samples) == pytest.approx(440, abs=5)
