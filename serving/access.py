"""Access control, by one table of all routes and methods: a request that is not in it is
refused."""

import difflib
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from starlette.types import Scope

from configs.errors import UsageError
from serving.errors import ApiError

Access = Literal["public", "token"]
"""Who may call a route: any client, or only one that sends a token. A server without tokens answers
any client on both kinds of routes."""

Table = Mapping[str, Mapping[str, Access]]
"""The access to each route: path to method to access."""

NEEDED = {
    "/v1/completions": "language models",
    "/v1/chat/completions": "models that were trained on conversations",
    "/v1/embeddings": "language models and encoders",
    "/v1/audio/transcriptions": "speech recognisers",
    "/v1/classify": "classifiers",
    "/v1/translate": "models that were trained on pairs of texts",
    "/v1/fill": "masked language models",
}
"""Routes that only some models have, with a description of those models for the error."""

UNLISTED = ("/page/", "/v1/models/")
"""Beginnings of paths that error messages do not list: files of the page, and the model by its
name."""

NEAR = 0.75
"""Minimum similarity (difflib's ratio) of a suggested path to the wrong one. OpenAI's other routes,
such as /v1/moderations, are less similar to ours."""

HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
"""A Host header: a name, an IPv4 address or an IPv6 address in brackets; then, optionally, a
port."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address, which only this machine can reach, or
    `localhost`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(address: str) -> str:
    """Return the network that one client is assumed to own: the address itself for IPv4, its /64
    network for IPv6. Anything but an IP address is returned unchanged."""
    try:
        given = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped is None:
        return str(ipaddress.ip_network((given, 64), strict=False))
    return address


def host_name(value: str) -> str | None:
    """Return the name in a Host header, in lower case and without the port; an IPv6 address is in
    brackets and in its shortest form. None if the header is malformed."""
    found = HOST.fullmatch(value)
    if found is None:
        return None
    name = found["name"].lower()
    if name.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return name


def is_address(name: str) -> bool:
    """Return whether a host name is an IP address. An IPv6 address may be in brackets."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_allowed_hosts(hosts: Collection[str]) -> None:
    """Raise `UsageError` for a name in serve.allowed_hosts that a Host header can't contain."""
    for host in hosts:
        if host_name(_bracketed(host)) is None:
            bare = re.sub(r"^[a-z]+://|^\*\.|/.*$", "", host)
            nearest = bare if host_name(bare) else "models.example"
            raise UsageError(
                f"--config.serve.allowed_hosts: {host[:100]!r} is no host name: write each name "
                f"under which clients reach the server, such as {nearest}"
            )


def _bracketed(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and host[0] != "[" else host


class AccessRules:
    """Decides whether a request may be answered.

    table: the access to all routes. tokens: clients must send one of them as `Authorization: Bearer
    TOKEN`; empty if no token is needed. hosts: the names that the Host header may have; empty for
    any name. takes_addresses: whether the Host header may also have any IP address.
    """

    def __init__(
        self,
        table: Table,
        *,
        tokens: Sequence[str],
        hosts: Collection[str],
        takes_addresses: bool = False,
    ):
        self._table = table
        self._listed = sorted(path for path in table if not path.startswith(UNLISTED))
        self._hosts = {host_name(_bracketed(host)) for host in hosts} - {None}
        self._takes_any_host, self._takes_addresses = not hosts, takes_addresses
        self._digests = [_digest(token.encode()) for token in tokens]

    @property
    def paths(self) -> Collection[str]:
        """Return the paths of all routes."""
        return self._table.keys()

    def check(self, scope: Scope) -> str:
        """Return a name for the token that a request sent, such as `token 0`; empty if none is
        needed. Raises `ApiError` if the request may not be answered.

        The route is looked up by `scope["path"]`, as in the router, and not by a URL that contains
        the Host header.
        """
        headers = scope["headers"]
        self._check_host(_values(headers, b"host"))
        _check_origin(headers)
        methods = self._table.get(scope["path"])
        if methods is None and (models := NEEDED.get(scope["path"])) is not None:
            others = ", ".join(path for path in self._listed if path.startswith("/v1/"))
            raise ApiError(
                404,
                f"this model has no {scope['path']}, which is for {models}: it has {others}",
                code="not_found",
            )
        if methods is None:
            if scope["path"].startswith("/v1/models/"):
                raise _no_such_model(scope["path"].removeprefix("/v1/models/"))
            raise self._no_such_route(scope["path"])
        access = methods.get(scope["method"])
        if access is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(
                405,
                f"this route takes {allowed}",
                code="method_not_allowed",
                headers={"Allow": allowed},
            )
        if access == "public" or not self._digests:
            return ""
        return self._check_token(_values(headers, b"authorization"))

    def _no_such_route(self, path: str) -> ApiError:
        near = difflib.get_close_matches(path[:100].lower(), self._listed, n=1, cutoff=NEAR)
        hint = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(self._listed)
        return ApiError(404, f"there is no such route{hint}: there are {known}", code="not_found")

    def _check_host(self, values: Sequence[bytes]) -> None:
        if len(values) != 1:
            raise ApiError(400, "a request needs one Host header", code="invalid_host")
        name = host_name(values[0].decode("latin-1"))
        if name is None:
            raise ApiError(400, "the Host header is not a name and a port", code="invalid_host")
        is_known = self._takes_any_host or name in self._hosts
        if not is_known and not (self._takes_addresses and is_address(name)):
            also = ", or call it by its IP address" if self._takes_addresses else ""
            raise ApiError(
                421,
                "this host name is not served here: start the server with it in "
                f"serve.allowed_hosts{also}",
                code="invalid_host",
            )

    def _check_token(self, values: Sequence[bytes]) -> str:
        scheme, _, given = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        digest = _digest(given.strip())
        # All digests are compared, each in constant time: the time reveals neither which token
        # matches, nor the length of a token.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(found):
            raise ApiError(
                401,
                "a token is needed: send the header Authorization: Bearer TOKEN",
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return f"token {found.index(True)}"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _no_such_model(name: str) -> ApiError:
    message = f"there is no model {name[:100]!r}: see /v1/models"
    return ApiError(404, message, param="model", code="model_not_found")


def _check_origin(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise `ApiError` for a request that a page of another origin makes in a browser."""
    origins, sites = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
    host = _values(headers, b"host")[0].lower()
    is_same = all(origin.lower().partition(b"://")[2] == host for origin in origins)
    is_same = is_same and all(site in (b"same-origin", b"none") for site in sites)
    # A link from another page is a navigation: that page can't read the answer.
    is_link = not origins and _values(headers, b"sec-fetch-mode") == [b"navigate"]
    if not is_same and not is_link:
        raise ApiError(403, "pages of other origins may not call this server", code="cross_origin")


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
