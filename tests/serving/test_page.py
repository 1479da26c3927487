"""The files of the web page, what is served, and the report: without a browser."""

import http.client
import json
import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.schema.serve import Serve
from inference.loading import load_model
from serving.forms.info import model_info
from serving.routes.page import FOLDER, MEDIA_TYPES, address_of
from tests.serving.servers import GOLDEN, RunningServer, serving

FILES = sorted(path.name for path in FOLDER.iterdir())
PAGES = {"index.html": "app.js", "docs.html": "docs.js"}
TOKEN = "a-token-for-tests"
REPORT = b"<!DOCTYPE html><title>A report</title>"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RunningServer]:
    """A server that wants a token, of a workdir with a report."""
    folder = tmp_path_factory.mktemp("page")
    workdir = folder / "recurrence_text"
    shutil.copytree(GOLDEN / "recurrence_text", workdir)
    (workdir / "report.html").write_bytes(REPORT)
    (folder / "tokens").write_text(TOKEN)
    flag = f"--token_file={folder / 'tokens'}"
    with serving(workdir, folder / "log", flag, is_awaited=False) as one:
        yield one


def get(server: RunningServer, path: str, method: str = "GET", **headers: str):
    """Send a request; return the response and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=given)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def with_token(server: RunningServer, path: str, method: str = "GET"):
    return get(server, path, method, Authorization=f"Bearer {TOKEN}")


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_as_it_is_with_its_type_and_policy(server, name):
    response, content = get(server, address_of(name))
    assert response.status == 200 and content == (FOLDER / name).read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES[Path(name).suffix]
    assert response.headers["cache-control"] == "no-cache"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert "form-action 'none'" in policy and "frame-ancestors 'none'" in policy
    assert not any("unsafe" in rule or "*" in rule or "http" in rule for rule in policy)
    again, nothing = get(server, address_of(name), If_None_Match=response.headers["etag"])
    assert (again.status, nothing) == (304, b"")


VARYING = {"date", "x-request-id"}
"""Headers that differ from answer to answer."""


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/report", "/nothing"])
def test_head_is_answered_as_get_without_the_body(server, path):
    asked, content = with_token(server, path)
    told, nothing = with_token(server, path, "HEAD")
    expected, headers = (
        {name: value for name, value in one.getheaders() if name.lower() not in VARYING}
        for one in (asked, told)
    )
    assert (told.status, headers) == (asked.status, expected)
    assert content and nothing == b""


def test_head_needs_the_token_where_get_does_and_a_route_without_get_has_none(server):
    assert get(server, "/v1/models", "HEAD")[0].status == 401
    refused, _ = with_token(server, "/v1/completions", "HEAD")
    assert refused.status == 405 and refused.headers["allow"] == "POST"
    refused, _ = with_token(server, "/v1/models", "POST")
    assert refused.status == 405 and refused.headers["allow"] == "GET, HEAD"


def test_the_log_tells_that_programs_are_compiled_before_anything_is_answered(server):
    get(server, "/health")
    listening, compiling, *_ = server.lines()
    assert (listening["event"], compiling["event"]) == ("listening", "compiling")
    assert compiling["batch_sizes"] == [1, 2] and "/ready" in compiling["note"]


@pytest.mark.parametrize("path", ["/page/", "/page/../serve.py", "/page/%2e%2e/app.py", "//docs"])
def test_nothing_else_is_served(server, path):
    response, _ = get(server, path)
    assert response.status == 404


class Markup(HTMLParser):
    """Collects the ids of a page, the ids and addresses that it refers to, and inline code."""

    def __init__(self, name: str):
        super().__init__()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.addresses: set[str] = set()
        self.inline: list[str] = []
        self.feed((FOLDER / name).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            self.references.update((given.get(name) or "").split())
        self.addresses.update(given[name] for name in ("href", "src") if name in given)
        is_inline = tag == "style" or (tag == "script" and "src" not in given)
        self.inline += [tag] * is_inline + [
            name for name in given if name == "style" or name.startswith("on")
        ]


def imported(name: str) -> set[str]:
    """Return the names of a script and of all that it imports."""
    found, left = set(), [name]
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            source = (FOLDER / one).read_text(encoding="utf-8")
            left += re.findall(r'^import .* from "/page/([a-z_]+\.js)";$', source, re.MULTILINE)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_id_and_every_address_of_a_page_exists(page):
    markup = Markup(page)
    assert len({*markup.ids}) == len(markup.ids) and markup.inline == []
    known = {address_of(name) for name in FILES} | {"/report", "/openapi.json"}
    own = {f"#{one}" for one in markup.ids}
    assert markup.addresses <= known | own
    scripts = imported(PAGES[page])
    used = {
        one
        for name in scripts
        for one in re.findall(r'byId\("([^"]+)"\)', (FOLDER / name).read_text(encoding="utf-8"))
    }
    if page == "docs.html":  # It shares modules whose other functions use ids of the first page.
        used &= {*re.findall(r'byId\("([^"]+)"\)', (FOLDER / "docs.js").read_text("utf-8"))}
    assert used and (used | markup.references) <= {*markup.ids}


def test_the_scripts_are_all_used_and_short_and_never_make_html_of_data():
    scripts = {name for name in FILES if name.endswith(".js")}
    assert imported("app.js") | imported("docs.js") | {"recorder_worklet.js"} == scripts
    for name in FILES:
        source = (FOLDER / name).read_text(encoding="utf-8")
        assert source.count("\n") < 500, name
        assert not re.search(r"(inner|outer|insertAdjacent)HTML|document\.write|\beval\(", source)
        external = {*re.findall(r"https?://[^\s\"'`)]*|[\"'(]//[^\s]*", source)}
        assert external <= {"http://www.w3.org/2000/svg"}, name


def test_who_has_no_token_sees_the_page_but_neither_figures_nor_report(server):
    for path in ("/v1/info", "/report"):
        response, content = get(server, path)
        assert response.status == 401 and REPORT not in content


def test_the_report_is_kept_from_the_network_and_from_the_page(server):
    response, content = with_token(server, "/report")
    policy = response.headers["content-security-policy"]
    assert content == REPORT and response.headers["content-type"].startswith("text/html")
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; ")
    assert "allow-same-origin" not in policy and "connect-src" not in policy


def test_what_is_served_is_told_with_the_figures_of_its_step(server):
    response, content = with_token(server, "/v1/info")
    info = json.loads(content)
    manifest = json.loads(
        (GOLDEN / "recurrence_text/checkpoints/12/manifest.json").read_text(encoding="utf-8")
    )
    figures = {name: manifest["metrics"][name] for name in info["metrics"]}
    assert response.status == 200 and info["metrics"] == figures and "loss" in figures
    assert (info["kind"], info["step"], info["name"]) == ("text", 12, "recurrence_text")
    assert info["has_report"] and info["limits"]["max_tokens"] == Serve().max_tokens
    parameters = [leaf for leaf in manifest["leaves"] if leaf.startswith("params.")]
    assert info["parameters"] == sum(
        math.prod(manifest["leaves"][name]["shape"]) for name in parameters
    )


@pytest.mark.parametrize(
    ("workdir", "kind", "expected"),
    [
        ("convolution_pictures", "classify_picture", {"image_shape": [8, 8, 1], "context": None}),
        ("recurrence_sound", "transcribe", {"sample_rate": 8000, "classes": None}),
        ("attention_pairs", "translate", {"architecture": "encoder_decoder", "data": "dates"}),
    ],
)
def test_each_kind_of_model_is_told(workdir, kind, expected):
    model = load_model(GOLDEN / workdir)
    info = model_info(
        model, name="m", status="ready", context=None, limits=Serve(), has_report=False
    ).model_dump()
    assert info["kind"] == kind and info["examples"] > 0
    assert {name: info[name] for name in expected} == expected


def test_the_files_of_the_page_are_not_described(server):
    _, content = with_token(server, "/openapi.json")
    paths = json.loads(content)["paths"]
    assert "/v1/info" in paths and "/report" in paths
    assert not any(path in paths for path in map(address_of, FILES))
