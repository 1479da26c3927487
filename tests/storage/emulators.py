"""Object stores on this machine: emulators of Google Cloud Storage and S3, in processes of their
own, and a network between them and a test that can be cut.

They are in the extra `storage-tests` (`make test-storage`). Without them, the tests that need them
are skipped.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

PATIENCE = 60  # Seconds until an emulator answers.

LISTENING_GS = """
import socketserver, sys
socketserver.TCPServer.request_queue_size = 1024
from gcp_storage_emulator.__main__ import main
sys.exit(main())
"""
"""Starts the emulator of Google Cloud Storage. It has a connection for each request, of which five
may wait: another one is dropped, and tried again by the kernel after a second, and after minutes in
the end."""


def missing(*packages: str) -> list[str]:
    return [name for name in packages if find_spec(name) is None]


class Network:
    """A port that forwards connections to another one, until it is cut."""

    def __init__(self, port: int):
        self._to, self._open = port, threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._left: int | None = None  # Bytes to the store until it cuts itself.
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after: int | None = None) -> None:
        """Cuts all connections, and refuses others; or once so many bytes have gone to the
        store."""
        if after is not None:
            self._left = after
            return
        self._open.clear()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def mend(self) -> None:
        self._left = None
        self._open.set()

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def _accept(self) -> None:
        while True:
            one, _ = self._listener.accept()
            if self.is_cut:
                one.close()
                continue
            other = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [one, other]
            for source, target, is_up in ((one, other, True), (other, one, False)):
                arguments = (source, target, is_up)
                threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, is_up: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if is_up and self._left is not None:
                    self._left -= len(block)
                    if self._left < 0:
                        self.cut()
                        return
                target.sendall(block)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class Emulator:
    """A running emulator. variables: those of the environment with which it is used."""

    def __init__(self, scheme: str, network: Network, variables: dict[str, str]):
        self.scheme, self.network, self.variables = scheme, network, variables

    def bucket(self) -> str:
        """Makes a bucket; returns its URL."""
        name = f"b{secrets.token_hex(6)}"
        self.files().mkdir(name)
        return f"{self.scheme}://{name}"

    def files(self) -> Any:
        """The file system of fsspec, to look into the store past the code that is tested."""
        import fsspec

        options = {"token": "anon"} if self.scheme == "gs" else {}
        return fsspec.filesystem(
            self.scheme, use_listings_cache=False, skip_instance_cache=True, **options
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(scheme: str) -> Iterator[Emulator]:
    port = free_port()
    network = Network(port)
    address = f"http://127.0.0.1:{network.port}"
    if scheme == "s3":
        command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        variables = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    else:
        command = ["-c", LISTENING_GS, "start", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--in-memory"]
        variables = {
            "STORAGE_EMULATOR_HOST": address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # before gcsfs is imported
        }
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, f"the emulator of {scheme} ended: {process.returncode}"
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield Emulator(scheme, network, variables)
    finally:
        process.kill()
        process.wait()


def emulator(scheme: str, needed: list[str]) -> Iterator[Emulator]:
    if lacking := missing(*needed):
        pytest.skip(f"needs {', '.join(lacking)}: make test-storage installs it")
    with running(scheme) as started, pytest.MonkeyPatch.context() as patched:
        for name, value in started.variables.items():
            patched.setenv(name, value)
        yield started


@pytest.fixture(scope="session")
def gs() -> Iterator[Emulator]:
    """Google Cloud Storage, by an emulator."""
    yield from emulator("gs", ["gcsfs", "gcp_storage_emulator"])


@pytest.fixture(scope="session")
def s3() -> Iterator[Emulator]:
    """S3, by an emulator."""
    yield from emulator("s3", ["s3fs", "moto", "flask"])


@pytest.fixture
def place(request, tmp_path) -> str:
    """A new place for objects, of the kind in `request.param`: gs, s3, or a folder."""
    if request.param == "folder":
        return str(tmp_path / "place")
    return f"{request.getfixturevalue(request.param).bucket()}/place"


everywhere = pytest.mark.parametrize("place", ["gs", "s3", "folder"], indirect=True)
"""A test that runs with each kind of store."""

exclusive = pytest.mark.parametrize("place", ["s3", "folder"], indirect=True)
"""The same, where `create` must be exclusive: the emulator of Google Cloud Storage takes no notice
of ifGenerationMatch."""
