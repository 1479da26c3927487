"""Reads uploads: bodies of multipart/form-data with one file, and bodies that are a file.

Everything stays in memory, and its size is checked while it is read. File names are ignored.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from configs.schema.serve import Serve
from serving.body import check_encoding, check_length, timed_out, too_large
from serving.errors import ApiError, invalid, try_again
from serving.queueing import Room
from serving.responses import ClientLeft

FILE = "file"
"""Name of the part that contains the file."""

MOST_PARTS = 64
MOST_FIELD_BYTES = 1 << 16
"""Maximum size of a multipart body's fields and of the headers of all its parts, together."""

ENCODINGS = ("", "binary", "8bit", "7bit")
"""Accepted values of a part's Content-Transfer-Encoding: with them, the data is unchanged."""


@dataclass
class Upload:
    """A file, and the fields beside it: pairs of names and values, in order."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    file: bytes = b""


class Uploads:
    """Reads uploads, within the server's limits for a single upload and for all in memory."""

    def __init__(self, limits: Serve):
        self._limits = limits
        largest = limits.max_upload_bytes + MOST_FIELD_BYTES
        self._room = Room(max(limits.max_held_upload_bytes, 2 * largest))

    @property
    def held_bytes(self) -> int:
        """Return the size of all uploads in memory."""
        return self._room.total

    @asynccontextmanager
    async def open(
        self, request: Request, *, client: str, file_types: Sequence[str] = ()
    ) -> AsyncIterator[Upload]:
        """Read the upload of a request. It counts as one of those in memory until the `async with`
        block ends.

        client: the client that sends it. file_types: beginnings of Content-Types, such as "image/",
        of bodies that are the file itself; their fields are in the query of the URL. Raises
        `ApiError` for a body that has another type, is malformed, has no file or several, is too
        large, or takes too long, and 429 if there is no room for it in memory.
        """
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        upload = Upload()
        most = self._limits.max_upload_bytes
        if kind == b"multipart/form-data":
            most += MOST_FIELD_BYTES
            reader: _Reader = _MultipartReader(upload, options.get(b"boundary", b""), most)
        elif kind.decode("latin-1").startswith(tuple(file_types)) and file_types:
            upload.fields = request.query_params.multi_items()
            reader = _FileReader(upload)
        else:
            also = "".join(f", or {one}*" for one in file_types)
            raise ApiError(
                415,
                f"the body must be a file: send Content-Type: multipart/form-data{also}",
                code="unsupported_media_type",
            )
        held = 0
        try:
            async for chunk in _chunks(request, most, self._limits.body_seconds):
                if not self._room.take(client, len(chunk)):
                    raise try_again("too many files are being uploaded: try later", status=429)
                held += len(chunk)
                await asyncio.to_thread(self._take, reader, chunk)  # Parsing line ends takes long.
            reader.end()
            upload.file = bytes(reader.content)
            reader.content.clear()
            yield upload
        finally:
            upload.file = b""
            self._room.give_back(client, held)

    def _take(self, reader: "_Reader", chunk: bytes) -> None:
        try:
            reader.write(chunk)
            if len(reader.content) > self._limits.max_upload_bytes:
                raise too_large(self._limits.max_upload_bytes)
        except ApiError as error:
            error.headers["Connection"] = "close"  # The rest of the body is not read.
            raise


async def _chunks(request: Request, most_bytes: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield the chunks of a request's body. Raises `ApiError` 413 above `most_bytes`, and 408 after
    `seconds`."""
    check_encoding(request)
    check_length(request, most_bytes)
    deadline = asyncio.get_running_loop().time() + seconds
    size, stream = 0, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise timed_out(seconds) from None
        except ClientDisconnect:
            raise ClientLeft from None
        if chunk is None:
            return
        size += len(chunk)
        if size > most_bytes:
            raise too_large(most_bytes)
        yield chunk


class _Reader:
    """Reads the body of a request chunk by chunk. content: the bytes of the file so far."""

    def __init__(self, upload: Upload):
        self._upload, self.content = upload, bytearray()

    def write(self, chunk: bytes) -> None:
        """Process a chunk. Raises `ApiError` for an invalid body."""
        raise NotImplementedError

    def end(self) -> None:
        """Raise `ApiError` if the body is incomplete."""


class _FileReader(_Reader):
    """Reads a body that is the file itself."""

    def write(self, chunk: bytes) -> None:
        self.content += chunk


class _MultipartReader(_Reader):
    """Reads a body of multipart/form-data.

    Each part has a header with its name. The part named `file` is the file; the others are fields.
    """

    def __init__(self, upload: Upload, boundary: bytes, most_bytes: int):
        super().__init__(upload)
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        if not boundary:
            raise invalid("the body's Content-Type has no boundary", code="invalid_multipart")
        try:
            self._parser = MultipartParser(boundary, callbacks, most_bytes)  # type: ignore[arg-type]
        except FormParserError:
            raise invalid(
                "the boundary of the body is too long", code="invalid_multipart"
            ) from None
        self._name: str | None = None
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._value = bytearray()
        self._parts = self._small = 0
        self._has_file = self._has_ended = False

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:  # Its message quotes the body.
            raise invalid("the body is no valid multipart", code="invalid_multipart") from None

    def end(self) -> None:
        if not self._has_ended:
            raise invalid("the body ends before its last boundary", code="invalid_multipart")
        if not self._has_file:
            message = f"{FILE} is missing: send the file as the part {FILE!r}"
            raise invalid(message, FILE, "missing_required_parameter")

    # ---- Callbacks of the parser: the new data is `data[start:end]`.

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise invalid(f"the body has more than {MOST_PARTS} parts", code="invalid_multipart")
        self._name, self._headers, self._value = None, {}, bytearray()
        self._header = (bytearray(), bytearray())

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header[0].extend(data[start:end])

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise invalid("a part of the body has no name", code="invalid_multipart")
        encoding = self._headers.get(b"content-transfer-encoding", b"").decode("latin-1")
        if encoding.strip().lower() not in ENCODINGS:
            raise invalid("parts must not be encoded", code="invalid_multipart")
        self._name = options[b"name"].decode("utf-8", "replace")
        if self._name == FILE:
            if self._has_file:
                raise invalid(f"there are several parts named {FILE!r}: send one file", FILE)
            self._has_file = True
        elif b"filename" in options:
            message = f"the file must be the part {FILE!r}, not {self._name[:100]!r}"
            raise invalid(message, self._name[:100], "unknown_parameter")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self.content += memoryview(data)[start:end]
        else:
            self._count(end - start)
            self._value += data[start:end]

    def _end_part(self) -> None:
        if self._name == FILE or self._name is None:
            return
        try:
            value = self._value.decode()
        except UnicodeDecodeError:
            message = f"{self._name[:100]} is not text in UTF-8"
            raise invalid(message, self._name[:100], "invalid_value") from None
        self._upload.fields.append((self._name, value))

    def _end(self) -> None:
        self._has_ended = True

    def _count(self, size: int) -> None:
        self._small += size
        if self._small > MOST_FIELD_BYTES:
            message = f"the fields beside the file have more than {MOST_FIELD_BYTES} bytes"
            raise ApiError(413, message, code="body_too_large")
