"""The web page in a real browser where something goes wrong: a refusal, a lost connection, a wrong
setting, a device that does not start."""

import json

import pytest

from tests.long.browsing import LOOKS, bars, described_as, look, opened, setting

CHAT = {"/v1/info": described_as(kind="chat")}
SOUND = {"/v1/info": described_as(kind="transcribe", sample_rate=8000)}
"""Panels for models that the server of the tests doesn't have: it is asked for nothing else."""


def test_a_refusal_is_shown_as_the_server_words_it(browser, text_server):
    fields = {"model": text_server.model, "prompt": "?" * 3, "max_tokens": 5, "stop": ["x"] * 5}
    status, body = text_server.request("/v1/completions", fields)
    with opened(browser, text_server, "#text-panel", may_fail=True) as page:
        page.locator("#settings").evaluate("one => (one.open = true)")
        page.fill("#stops", "a\nb\nc\nd\ne")
        page.click("#text-run")
        page.wait_for_selector("#problem:visible")
        shown = page.locator("#problem p").inner_text()
        assert page.locator("#problem .id").inner_text() != ""
    assert status == 400 and shown == json.loads(body)["error"]["message"]


BROKEN = """() => {
  const event = new TextEncoder().encode('data: {"choices": [{"index": 0, "text": "0"}]}\\n\\n');
  window.fetch = async () => new Response(new ReadableStream({
    start: (controller) => controller.enqueue(event),
    pull: (controller) => controller.error(new TypeError("network error")),
  }, { highWaterMark: 0 }));
}"""


def test_a_connection_that_is_lost_in_the_middle_is_told_in_our_words(browser, text_server):
    with opened(browser, text_server, "#text-panel") as page:
        page.evaluate(BROKEN)
        page.click("#text-run")
        page.wait_for_selector("#problem:visible")
        assert page.locator("#problem p").inner_text() == "the answer broke off"


REASON = "(limit) => import('/page/writing.js').then((one) => one.reasonText('length', limit))"


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (1, "the limit of 1 token was reached"),
        (0, "the model's context is full"),
        (None, "the limit of tokens was reached"),
    ],
)
def test_what_has_cut_a_text_off_is_told(browser, text_server, tokens, words):
    """Where it is the context, the text has fewer tokens than were asked for."""
    with opened(browser, text_server, "#text-panel") as page:
        assert page.evaluate(REASON, {"tokens": tokens, "most": 1}) == words


def test_a_stream_that_is_not_read_to_its_end_is_cancelled(browser, text_server):
    with opened(browser, text_server, "#text-panel") as page:
        page.evaluate("""async () => {
          const { events } = await import("/page/api.js");
          const end = new TextEncoder().encode("data: [DONE]\\n\\n");
          const stream = new ReadableStream({
            start: (controller) => controller.enqueue(end),
            cancel: () => (document.body.dataset.isCancelled = ""),
          });
          for await (const event of events(new Response(stream)));
        }""")
        page.wait_for_selector("body[data-is-cancelled]")


def test_the_status_is_found_again_after_a_lost_request(browser, text_server):
    """While programs are compiled, one request does not get through."""
    answers = iter(["compiling", None, None, "ready"])

    def handler(route) -> None:
        status = next(answers)
        if status is None:
            route.abort()
        else:
            described_as(status=status)(route)

    handlers = {"/v1/info": handler}
    with opened(browser, text_server, "#text-panel", handlers=handlers, may_fail=True) as page:
        page.wait_for_selector("#status[data-status=unreachable]")
        page.wait_for_selector("#status[data-status=ready]")


def test_a_message_that_is_refused_stands_before_what_was_typed_meanwhile(browser, text_server):
    def refuse(route) -> None:
        page.fill("#message", "second")
        route.fulfill(status=503, json={"error": {"message": "try again"}})

    handlers = CHAT | {"/v1/chat/completions": refuse}
    with opened(browser, text_server, "#chat-panel", handlers=handlers, may_fail=True) as page:
        assert page.locator("#conversation").get_attribute("tabindex") == "0"
        page.fill("#message", "first")
        page.press("#message", "Enter")
        page.wait_for_selector("#problem:visible")
        assert page.input_value("#message") == "first\nsecond"
        assert page.locator("#conversation li").count() == 0


def test_a_wrong_setting_of_the_other_mode_does_not_hold_a_message_back(browser, text_server):
    answer = {"choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}]}
    handlers = CHAT | {"/v1/chat/completions": lambda route: route.fulfill(json=answer)}
    with opened(browser, text_server, "#chat-panel", handlers=handlers) as page:
        page.check("[name=mode][value=text]")
        setting(page, "n", "0")
        page.uncheck("#stream")
        page.check("[name=mode][value=chat]")
        page.fill("#message", "well?")
        page.press("#message", "Enter")
        page.wait_for_selector("#conversation article[aria-busy=false]")
        assert page.locator("#conversation .text").all_text_contents() == ["well?", "yes"]


def test_most_tokens_must_be_given(browser, text_server):
    with opened(browser, text_server, "#text-panel") as page:
        setting(page, "max_tokens", "")
        page.click("#text-run")
        assert page.locator("#max-tokens").evaluate("one => one === document.activeElement")
        assert page.locator("#text-outputs article").count() == 0


def test_the_enter_of_an_input_method_does_not_send(browser, text_server):
    """Safari tells by the code of the key only that it goes to one."""
    with opened(browser, text_server, "#chat-panel", handlers=CHAT) as page:
        page.fill("#message", "にほん")
        page.locator("#message").evaluate(
            "one => one.dispatchEvent("
            "new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, cancelable: true }))"
        )
        assert page.input_value("#message") == "にほん"
        assert page.locator("#conversation li").count() == 0


ASKED = """() => {
  window.asked = 0;
  navigator.mediaDevices.getUserMedia = () => {
    window.asked += 1;
    return new Promise((_, reject) => (window.refuse = () => reject(new Error("not allowed"))));
  };
}"""


@pytest.mark.parametrize(
    ("kind", "button"), [("transcribe", "record"), ("classify_picture", "camera")]
)
def test_a_device_is_asked_for_once(browser, text_server, kind, button):
    """The button waits while the browser asks the user."""
    handlers = {"/v1/info": described_as(kind=kind, sample_rate=8000)}
    with opened(browser, text_server, "#file-panel", handlers=handlers) as page:
        page.evaluate(ASKED)
        page.locator(f"#{button}").focus()
        page.keyboard.press("Enter")
        assert page.locator(f"#{button}").is_disabled()
        page.locator(f"#{button}").evaluate("one => one.click()")
        assert page.evaluate("window.asked") == 1
        page.evaluate("window.refuse()")
        page.wait_for_selector("#problem:has-text('not allowed')")
        assert page.locator(f"#{button}").is_enabled()
        assert page.locator(f"#{button}").evaluate("one => one === document.activeElement")


def test_the_microphone_is_released_if_the_recording_does_not_begin(browser, text_server):
    with opened(browser, text_server, "#file-panel", handlers=SOUND) as page:
        page.evaluate("""() => {
          const devices = navigator.mediaDevices;
          const ask = devices.getUserMedia.bind(devices);
          devices.getUserMedia = async (wanted) => (window.stream = await ask(wanted));
          AudioWorklet.prototype.addModule = () => Promise.reject(new Error("no module"));
        }""")
        page.click("#record")
        page.wait_for_selector("#problem:has-text('no module')")
        states = page.evaluate("window.stream.getTracks().map((one) => one.readyState)")
        assert states == ["ended"]


def test_candidates_that_are_only_space_can_be_seen(browser, text_server):
    candidates = [[{"token": " ", "score": 0.6}, {"token": "\n", "score": 0.3}]]
    answer = {"data": [{"text": "a b", "candidates": candidates}]}
    handlers = {
        "/v1/info": described_as(kind="fill"),
        "/v1/fill": lambda route: route.fulfill(json=answer),
    }
    with opened(browser, text_server, "#input-panel", handlers=handlers) as page:
        page.fill("#input", "a[MASK]b")
        page.click("#input-run")
        page.wait_for_selector(".bars")
        assert bars(page) == {"␣": "60.0 %", "↵": "30.0 %"}


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_long_labels_are_shown_as_a_whole(browser, text_server, width, scheme):
    """Where fingers point, letters are so large that a phone does not zoom into what is typed."""
    names = ["an animal with a very long name", "Donaudampfschifffahrtsgesellschaft", "no"]
    scores = [{"label": name, "score": 0.5 / (1 + at)} for at, name in enumerate(names)]
    answer = {"data": [{"label": names[0], "scores": scores}]}
    handlers = {
        "/v1/info": described_as(kind="classify_text"),
        "/v1/classify": lambda route: route.fulfill(json=answer),
    }
    with opened(
        browser,
        text_server,
        "#input-panel",
        width=width,
        scheme=scheme,
        handlers=handlers,
        has_touch=True,
        is_mobile=width < 400,
    ) as page:
        page.fill("#input", "something")
        page.click("#input-run")
        page.wait_for_selector(".bars")
        assert [*bars(page)] == names
        sizes = page.locator(".bars .label").evaluate_all(
            "all => all.map((one) => [one.scrollWidth <= one.clientWidth,"
            " getComputedStyle(one).textOverflow])"
        )
        assert sizes == [[True, "clip"]] * len(names)
        size = page.locator("#input").evaluate("one => getComputedStyle(one).fontSize")
        assert size == "16px"
        look(page, f"labels_{width}_{scheme}")
