"""The page that describes the API, in a real browser: what is read there, and with a token."""

import pytest

from tests.long.browsing import LOOKS, look, opened

TOKEN = "right"


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_description_is_shown(browser, text_server, width, scheme):
    """Fields with their types, beside which null may stand; access; the meaning of statuses."""
    with opened(
        browser,
        text_server,
        "#routes section",
        width=width,
        scheme=scheme,
        path="/docs",
        handlers={"/openapi.json": with_a_list},
    ) as page:
        rows = page.locator("#complete tbody tr").all()
        cells = [row.locator("th, td").all_text_contents() for row in rows]
        second = {first: kind for first, kind, *_ in cells}
        assert {"prompt", "max_tokens", "stream_options.include_usage"} <= {*second}
        assert (second["n"], second["made_up"]) == ("integer", "list of object")
        assert second["made_up[].name"] == "string"
        meanings = {first: meaning for first, *_, meaning in reversed(cells)}  # the body's first
        assert meanings["model"] == "Required. The name of the model, as in /v1/models."
        assert meanings["n"].startswith("Number of answers to each prompt. Default 1, at least 1")
        assert page.locator("#complete td code:has-text('/v1/models')").count() >= 1
        assert "`" not in page.locator("#reference").inner_text()
        assert second["400"] == "A wrong parameter, which the error names."
        assert "Open to everybody." in page.locator("#health p").first.inner_text()
        assert "Needs the token" in page.locator("#complete p").first.inner_text()
        assert page.locator("#openapi-link").is_visible()


def with_a_list(route) -> None:
    """Answer with the server's description, in which completions have another field."""
    description = route.fetch().json()
    items = {"type": "object", "properties": {"name": {"type": "string"}}}
    field = {"type": ["array", "null"], "items": items}
    description["components"]["schemas"]["CompletionForm"]["properties"]["made_up"] = field
    route.fulfill(json=description)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_description_is_shown_to_who_gives_the_token(browser, text_server, width, scheme):
    """What can't be a token is refused and not kept. A link has no token: the source is saved."""
    with opened(
        browser,
        text_server,
        "#token-dialog[open]",
        width=width,
        scheme=scheme,
        path="/docs",
        handlers={"/openapi.json": locked},
        may_fail=True,
    ) as page:
        page.fill("#token", "“right”")
        page.keyboard.press("Enter")
        page.wait_for_selector("#token-problem:has-text('printable ASCII')")
        assert page.evaluate("sessionStorage.length") == 0
        look(page, f"token_{width}_{scheme}")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#routes section")
        assert page.locator("#openapi-link").is_hidden()
        with page.expect_download() as saved:
            page.click("#openapi-save")
        assert saved.value.suggested_filename == "openapi.json"
        assert '"openapi"' in saved.value.path().read_text(encoding="utf-8")


def locked(route) -> None:
    """Answer as a server does that has a token."""
    if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
        route.continue_()
    else:
        route.fulfill(status=401, json={"error": {"message": "send the token"}})


def test_requests_that_need_the_token_at_once_share_one_dialog(browser, text_server):
    with opened(
        browser,
        text_server,
        "#routes section",
        path="/docs",
        handlers={"/v1/info": locked, "/v1/models": locked},
        may_fail=True,
    ) as page:
        page.evaluate(
            "import('/page/api.js').then(({ sendForJson }) => {"
            " window.both = Promise.all(['/v1/info', '/v1/models'].map((one) => sendForJson(one)));"
            "})"
        )
        page.wait_for_selector("#token-dialog[open]")
        assert page.locator("#token-dialog").count() == 1
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        assert len(page.evaluate("window.both")) == 2
        assert page.locator("#token-dialog").count() == 0
