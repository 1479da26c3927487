"""Stores of objects: buckets of Google Cloud Storage and S3, and folders, with the same functions.

An object has a name, such as `checkpoints/12/manifest.json`, and is written as a whole. There is no
renaming and no lock; the one thing that is exclusive is `create`.
"""

import base64
import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from configs.errors import StorageError
from configs.files import make_folder, sync_file, write_durably
from configs.remote import PACKAGES, scheme_of

PIECE = 16 << 20
"""Bytes of an object that are read at once."""

THREADS = 8
"""Objects that are read or written at once."""

_SILENT_SECONDS = 600
"""How long Google Cloud Storage may not answer, while it gets 50 MB at most; s3fs has time-outs of
its own."""

_RESUMABLE_BYTES = 5 << 20
"""gcsfs uploads files of this size or more in chunks, as they are."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """An object in a list.

    size: in bytes.
    version: a text that changes with its content.
    md5: of its content, in hexadecimal digits; None if the store does not say it.
    """

    size: int
    version: str
    md5: str | None = None


class Store(Protocol):
    """Objects below one URL or folder. Any thread may use it.

    Every function raises `StorageError`, with one line, if the store can't be reached or refuses.
    """

    @property
    def url(self) -> str:
        """The URL, or the path of the folder; without a slash at the end."""
        ...

    def below(self, name: str) -> "Store":
        """Return the objects whose names begin with `name` and a slash, as a store."""
        ...

    def list(self, name: str = "") -> dict[str, Entry]:
        """Return the object `name` and those below it; all objects by default."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from `start` to `end` of an object. Raises FileNotFoundError."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write an object; another one of this name is replaced."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one; return whether it was written. Of several callers,
        one alone gets True."""
        ...

    def upload(self, name: str, path: Path) -> None:
        """Write a file of this machine as an object."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are left out."""
        ...

    def is_md5(self, name: str) -> bool:
        """Return whether the `md5` of an object in a list is really its hash. Called if it is not
        that of the bytes that were read."""
        ...


def open_store(place: str) -> Store:
    """Return the store at a URL (`gs://BUCKET/NAME`, `s3://BUCKET/NAME`) or in a folder, which
    need not exist yet."""
    scheme = scheme_of(place)
    if scheme is None:
        return FolderStore(Path(place))
    return ObjectStore(place.rstrip("/"), _file_system(scheme))


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    on_error: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Return `work(item)` of each item, several at once. After an error, which is raised, no other
    work is begun.

    on_error: called after an error, before what has begun is waited for.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="storage") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            on_error()
            for future in futures:
                future.cancel()
            raise


def is_safe(name: str) -> bool:
    """Return whether the name of an object is a path below a folder: it can't lead out of it."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not {"", ".", ".."}.intersection(parts)


def _file_system(scheme: str) -> Any:
    """Return fsspec's file system for a kind of object store."""
    for name in (*PACKAGES.values(), "fsspec", "aiobotocore", "asyncio", "google.auth"):
        # They log errors that they also raise, with their stacks.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "gs":
        # Without it, gcsfs asks each bucket for its kind through a second library.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENT_SECONDS)
        options["requests_timeout"] = timeout
        if os.environ.get("STORAGE_EMULATOR_HOST"):  # It asks for no credentials.
            options["token"] = "anon"
    import fsspec

    return fsspec.filesystem(scheme, **options)


@dataclass(frozen=True)
class ObjectStore:
    """Objects of a bucket. url: as in `Store`. files: fsspec's file system."""

    url: str
    files: Any

    def below(self, name: str) -> "ObjectStore":
        return ObjectStore(f"{self.url}/{name}".rstrip("/"), self.files)

    def list(self, name: str = "") -> dict[str, Entry]:
        with self._errors(name):
            try:
                found = self.files.find(self._path(name), detail=True)
            except FileNotFoundError:
                raise StorageError(f"{self.url}: there is no such bucket") from None
        begin = f"{self._path('')}/"
        return {
            path.removeprefix(begin): _entry(about)
            for path, about in sorted(found.items())
            if path.startswith(begin) and not path.endswith("/") and about["type"] == "file"
        }

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        with self._errors(name):
            # S3 refuses any range of an empty object, also the one from its beginning.
            return bytes(self.files.cat_file(self._path(name), start=start or None, end=end))

    def write(self, name: str, content: bytes) -> None:
        with self._errors(name):
            if self.url.startswith("gs://") and content:
                self._post(name, content)
            else:
                self.files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        try:
            with self._errors(name):
                if self.url.startswith("gs://"):
                    self._post(name, content, ifGenerationMatch="0")
                else:
                    self.files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def upload(self, name: str, path: Path) -> None:
        if self.url.startswith("gs://") and path.stat().st_size < _RESUMABLE_BYTES:
            self.write(name, path.read_bytes())
            return
        with self._errors(name):
            self.files.put_file(str(path), self._path(name))

    def delete(self, names: Iterable[str]) -> None:
        def delete_one(name: str) -> None:
            with contextlib.suppress(FileNotFoundError), self._errors(name):
                self.files.rm_file(self._path(name))

        in_threads(delete_one, names)

    def is_md5(self, name: str) -> bool:
        if not self.url.startswith("s3://"):
            return True
        bucket, _, key = self._path(name).partition("/")
        with self._errors(name):
            about = self.files.call_s3("head_object", Bucket=bucket, Key=key)
        is_keyed = "SSECustomerAlgorithm" in about
        return not is_keyed and about.get("ServerSideEncryption", "AES256") == "AES256"

    def _post(self, name: str, content: bytes, **conditions: str) -> None:
        """Write an object of Google Cloud Storage in one request.

        gcsfs would write a multipart body with lone line feeds, in which the last byte of a content
        that ends with a carriage return is taken for a part of the next line.
        """
        bucket, _, key = self._path(name).partition("/")
        self.files.call(
            "POST",
            f"{self.files._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o",
            headers={"Content-Type": "application/octet-stream"},
            data=content,
            uploadType="media",
            name=key,
            **conditions,
        )

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/").partition("://")[2]

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Raise the errors of the libraries as `StorageError`, but for FileNotFoundError and
        FileExistsError."""
        try:
            yield
        except (StorageError, FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # Each library has errors of its own.
            if "PreconditionFailed" in str(error):
                raise FileExistsError(name) from None
            where = f"{self.url}/{name}".rstrip("/")
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise StorageError(f"{where}: {text}") from error


def _entry(about: dict[str, Any]) -> Entry:
    """Return the entry of an object, from what fsspec says of it."""
    tag = str(about.get("ETag") or "").strip('"')
    if about.get("md5Hash"):
        md5 = base64.b64decode(about["md5Hash"]).hex()
    else:  # S3's tag of an object that was uploaded in one part, unless it is encrypted with a key.
        md5 = tag if re.fullmatch(r"[0-9a-f]{32}", tag) else ""
    version = " ".join(filter(None, (str(about.get("generation") or ""), tag, md5)))
    return Entry(int(about["size"]), version, md5 or None)


@dataclass(frozen=True)
class FolderStore:
    """Files of a folder, such as of another disk. A file has its name once it is on the disk."""

    folder: Path

    @property
    def url(self) -> str:
        return str(self.folder)

    def below(self, name: str) -> "FolderStore":
        return FolderStore(self.folder / name)

    def list(self, name: str = "") -> dict[str, Entry]:
        with self._errors(name):
            top = self.folder / name
            paths = sorted(top.rglob("*")) if top.is_dir() else [top]
            return {
                path.relative_to(self.folder).as_posix(): self._entry(path)
                for path in paths
                if path.is_file() and not path.name.endswith(".writing")
            }

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        with self._errors(name), (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        with self._errors(name):
            make_folder(path.parent)
            write_durably(path, content)

    def create(self, name: str, content: bytes) -> bool:
        path = self.folder / name
        with self._errors(name):
            make_folder(path.parent)
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
            sync_file(path)
        return True

    def upload(self, name: str, path: Path) -> None:
        target = self.folder / name
        with self._errors(name):
            make_folder(target.parent)
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.writing")
            try:
                shutil.copyfile(path, temporary)
                sync_file(temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with self._errors(name):
                (self.folder / name).unlink(missing_ok=True)
                for parent in PurePosixPath(name).parents[:-1]:
                    with contextlib.suppress(OSError):  # There is something else in it.
                        (self.folder / parent).rmdir()

    def is_md5(self, name: str) -> bool:
        return True

    @staticmethod
    def _entry(path: Path) -> Entry:
        found = path.stat()
        return Entry(found.st_size, f"{found.st_mtime_ns} {found.st_ino}")

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            where = error.filename or self.folder / name
            raise StorageError(f"{where}: {error.strerror or error}") from error
