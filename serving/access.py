"""Who may call what: one table of all routes and methods. What does not stand in it is refused."""

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
"""Whether a route answers everybody, or those who have the token (everybody, if there is none)."""

Table = Mapping[str, Mapping[str, Access]]
"""The access of each route: path, then method."""

NEEDED = {"/v1/chat/completions": "models that were trained on conversations"}
"""Routes that only some models have, with what these are."""

UNLISTED = ("/page/", "/v1/models/")
"""Routes that errors do not list: files of the page, and the model's name."""

HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def network_of(address: str) -> str:
    """Return what one client can be assumed to own: an address of IPv4, a /64 network of IPv6."""
    try:
        given = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped is None:
        return str(ipaddress.ip_network((given, 64), strict=False))
    return address


def host_name(value: str) -> str | None:
    """Return the name in a Host header, without its port: an address of IPv6 in brackets and in its
    shortest form. None if it is not a name and a port."""
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
    """Return whether a host name is an IP address, one of IPv6 in brackets."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def check_allowed_hosts(hosts: Collection[str]) -> None:
    """Raise `UsageError` for a value of serve.allowed_hosts that no Host header can have."""
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

    table: all routes. tokens: clients must send one of them as `Authorization: Bearer TOKEN`; empty
    if the server is open. hosts: names under which the server may be called; empty for any name.
    takes_addresses: whether it may be called under any IP address besides.
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
        """Return a name for the token of a request, empty if it needs none. Raises `ApiError` if
        the request may not be answered.

        It is decided on the path that the router uses too, never on the Host header.
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
            known = ", ".join(self._listed)
            raise ApiError(404, f"there is no such route: there are {known}", code="not_found")
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
        # All are compared, so that the time tells nothing; nor does it tell a token's length.
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
    """Refuse requests that a page of another origin makes in somebody's browser."""
    origins, sites = _values(headers, b"origin"), _values(headers, b"sec-fetch-site")
    host = _values(headers, b"host")[0].lower()
    is_same = all(origin.lower().partition(b"://")[2] == host for origin in origins)
    is_same = is_same and all(site in (b"same-origin", b"none") for site in sites)
    # A link to the page from elsewhere is a navigation, which reads nothing.
    is_link = not origins and _values(headers, b"sec-fetch-mode") == [b"navigate"]
    if not is_same and not is_link:
        raise ApiError(403, "pages of other origins may not call this server", code="cross_origin")


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]
