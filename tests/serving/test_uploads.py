"""Uploads are read within bounds, whatever the body says."""

import asyncio
import random
import threading

import pytest
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from configs.schema.serve import Serve
from serving.errors import ApiError
from serving.responses import ClientLeft
from serving.uploads import MOST_FIELD_BYTES, MOST_PARTS, Uploads
from tests.serving.in_process import multipart

LIMITS = Serve(max_upload_bytes=100_000, max_held_upload_bytes=250_000, body_seconds=60.0)


def request_of(pieces, headers, query=b"", *, is_open=False):
    """Return a request whose body comes in pieces. is_open: whether its end never comes."""
    left = [*pieces]

    async def receive():
        if left:
            piece = left.pop(0)
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": bool(left) or is_open}
        await asyncio.Event().wait()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": query,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope, receive)


def read(pieces, headers, *, uploads=None, limits=LIMITS, **options):
    """Return the fields and the file of a body."""
    file_types = options.pop("file_types", ())

    async def read_one():
        reader = uploads or Uploads(limits)
        request = request_of(pieces, headers, **options)
        async with reader.open(request, client="a", file_types=file_types) as up:
            assert reader.held_bytes == sum(map(len, pieces))
            found = up.fields, up.file
        assert reader.held_bytes == 0
        return found

    return asyncio.run(read_one())


def error_of(pieces, headers, **options):
    uploads = Uploads(options.pop("limits", LIMITS))
    with pytest.raises(ApiError) as caught:
        read(pieces, headers, uploads=uploads, **options)
    assert uploads.held_bytes == 0
    return caught.value


def test_fields_and_file_do_not_depend_on_the_pieces():
    content = random.Random(0).randbytes(3000) + b"\r\n--x-boundary-" + b"\r\n" * 50 + b"--"
    parts = [("model", "näme"), ("list[]", "a"), ("file", content), ("list[]", "b"), ("empty", "")]
    body, headers = multipart(parts)
    expected = [("model", "näme"), ("list[]", "a"), ("list[]", "b"), ("empty", "")], content
    for size in (1, 7, 64, len(body)):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        assert read(pieces, headers) == expected


def test_a_body_can_be_the_file():
    headers = {"Content-Type": "image/png"}
    found = read([b"ab", b"c"], headers, query=b"model=m&top_k=3", file_types=("image/",))
    assert found == ([("model", "m"), ("top_k", "3")], b"abc")
    error = error_of([b"abc"], headers, file_types=("audio/",))
    assert error.status == 415 and "audio/*" in error.message
    assert error_of([b"abc"], headers).status == 415
    assert error_of([b"{}"], {"Content-Type": "application/json"}).status == 415
    assert error_of([b"x"], {}).status == 415


def part(name='name="file"', content=b"abc", more=b""):
    return b"--b\r\nContent-Disposition: form-data; " + name.encode() + more + b"\r\n\r\n" + content


END = b"\r\n--b--\r\n"
MALFORMED = {
    "no boundary in it": b"nothing",
    "nothing": b"",
    "cut off": part(),
    "no end": part() + b"\r\n--b",
    "no name": b"--b\r\nContent-Type: image/png\r\n\r\nabc" + END,
    "no disposition": part().replace(b"form-data", b"attachment") + END,
    "a header without a colon": b"--b\r\nContent-Disposition\r\n\r\n" + END,
    "a huge header": part(more=b"; x=" + b"y" * 10_000) + END,
    "many headers": part(more=b"".join(b"\r\nX-%d: 1" % n for n in range(50))) + END,
    "many parts": b"\r\n".join(part('name="a"') for _ in range(MOST_PARTS + 1)) + END,
    "two files": part() + b"\r\n" + part() + END,
    "a file of another name": part('name="image"; filename="x.png"') + END,
    "no file": part('name="model"') + END,
    "base64": part(more=b"\r\nContent-Transfer-Encoding: base64") + END,
    "a field that is no text": part('name="model"', b"\xff\xfe") + b"\r\n" + part() + END,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_refused(what):
    error = error_of([MALFORMED[what]], {"Content-Type": "multipart/form-data; boundary=b"})
    assert error.status == 400 and "0x" not in error.message


def test_boundaries_that_are_missing_or_huge_are_refused():
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 5000):
        assert error_of([b"x"], {"Content-Type": kind}).status == 400


def test_compressed_uploads_are_refused():
    body, headers = multipart([("file", b"x")])
    assert error_of([body], headers | {"Content-Encoding": "gzip"}).status == 415


def test_bytes_are_bounded_whatever_the_header_says():
    body, headers = multipart([("file", b"x" * 100_001)])
    assert error_of([body], headers).status == 413
    assert error_of([body], headers | {"Content-Length": "10"}).status == 413
    endless = [b"y" * 10_000] * 1000
    assert error_of([body[:200], *endless], headers).status == 413
    assert error_of(endless, {"Content-Type": "image/png"}, file_types=("image/",)).status == 413
    assert error_of([b""], headers | {"Content-Length": "9" * 30}).status == 413
    fields = multipart([("prompt", "x" * MOST_FIELD_BYTES), ("file", b"abc")])
    error = error_of([fields[0]], fields[1])
    assert error.status == 413 and "fields" in error.message


def test_a_slow_body_ends_in_time():
    body, headers = multipart([("file", b"x")])
    slow = Serve(body_seconds=0.1)
    assert error_of([body[:30]], headers, is_open=True, limits=slow).status == 408


def test_a_client_that_leaves_is_given_up():
    body, headers = multipart([("file", b"x")])
    uploads = Uploads(LIMITS)

    async def leave():
        async with uploads.open(request_of([body[:30], None], headers, is_open=True), client="a"):
            raise AssertionError

    with pytest.raises(ClientLeft):
        asyncio.run(leave())
    assert uploads.held_bytes == 0


def test_all_uploads_together_are_bounded_and_others_find_room():
    body, headers = multipart([("file", b"x" * 90_000)])

    async def scenario():
        uploads = Uploads(LIMITS.model_copy(update={"max_held_upload_bytes": 400_000}))

        def upload(client):
            return uploads.open(request_of([body], headers), client=client)

        async with upload("a"), upload("a"):
            with pytest.raises(ApiError) as caught:
                async with upload("a"):
                    pass
            assert caught.value.status == 429 and caught.value.headers["Retry-After"]
            async with upload("b"):
                assert uploads.held_bytes == 3 * len(body)
        assert uploads.held_bytes == 0
        async with upload("a") as read:
            assert len(read.file) == 90_000

    asyncio.run(scenario())


def test_a_form_is_parsed_beside_the_event_loop(monkeypatch):
    """So a body that takes long, such as one of lines that could be boundaries, delays nobody."""
    threads, write = set(), MultipartParser.write

    def noting(parser, data):
        threads.add(threading.get_ident())
        return write(parser, data)

    monkeypatch.setattr(MultipartParser, "write", noting)
    body, headers = multipart([("file", b"\r\n--x" * 100)])
    assert read([body], headers)[1] == b"\r\n--x" * 100
    assert threads and threading.get_ident() not in threads


def test_floods_of_line_ends_are_read_in_linear_time():
    """Costs grow with the size, not its square: a body of 8 MB is read as any other."""
    limits = Serve(max_upload_bytes=8 << 20)
    for content in (b"\r" * (4 << 20), b"\r\n--" * (1 << 20), b"--b" * (1 << 20)):
        body, headers = multipart([("file", content)])
        pieces = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
        assert read(pieces, headers, limits=limits)[1] == content
