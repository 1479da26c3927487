"""Access is denied unless the table allows it."""

import pytest

from configs.errors import UsageError
from serve import hosts_of
from serving.access import (
    LOOPBACK_NAMES,
    AccessRules,
    check_allowed_hosts,
    host_name,
    is_loopback,
    network_of,
)
from serving.errors import ApiError

TABLE = {"/health": {"GET": "public"}, "/v1/models": {"GET": "token"}}


def rules(**options):
    return AccessRules(TABLE, **({"tokens": ["one", "two"], "hosts": LOOPBACK_NAMES} | options))


def request(path, method="GET", **headers):
    given = {"host": "localhost"} | {name.replace("_", "-"): v for name, v in headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    return {"type": "http", "path": path, "method": method, "headers": pairs}


def status_of(scope, **options):
    try:
        rules(**options).check(scope)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.parametrize("path", ["/v1/models/", "/V1/models", "//v1/models", "/health/x", "", "*"])
def test_what_is_not_in_the_table_is_refused_even_with_a_token(path):
    assert status_of(request(path, authorization="Bearer one")) == 404


def test_a_method_that_is_not_in_the_table_is_refused_and_told():
    with pytest.raises(ApiError) as caught:
        rules().check(request("/v1/models", "DELETE"))
    assert caught.value.status == 405 and caught.value.headers == {"Allow": "GET"}
    assert status_of(request("/health", "HEAD")) == 405


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/health/", "/health"),
        ("/HEALTHZ", "/health"),
        ("/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
    ],
)
def test_a_route_that_is_not_there_is_told_with_the_nearest(path, near):
    with pytest.raises(ApiError) as caught:
        rules().check(request(path))
    assert str(caught.value) == (
        f"there is no such route (did you mean {near}?): there are /health, /v1/models"
    )


@pytest.mark.parametrize("path", ["/", "/v1/moderations", "/v1/images/edits", "/" + "a" * 10_000])
def test_a_route_that_is_like_none_is_told_without_a_guess(path):
    with pytest.raises(ApiError, match=r"^there is no such route: there are /health, /v1/models$"):
        rules().check(request(path))


def test_each_token_opens_the_routes_and_is_named_apart():
    names = [
        rules().check(request("/v1/models", authorization=f"Bearer {token}"))
        for token in ("one", "two")
    ]
    assert len({*names}) == 2 and not any("one" in name or "two" in name for name in names)
    assert status_of(request("/v1/models")) == 401
    assert status_of(request("/v1/models", authorization="Bearer three")) == 401


def test_an_open_server_names_no_client_by_what_it_claims():
    assert rules(tokens=[]).check(request("/v1/models", authorization="Bearer any")) == ""


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("LocalHost:8000", "localhost"),
        ("[0:0::1]:80", "[::1]"),
        ("my_host-1.example", "my_host-1.example"),
        ("::1", None),
        ("[::zz]", None),
        ("a b", None),
        ("a:b", None),
        ("a/b", None),
        ("", None),
    ],
)
def test_a_host_header_is_a_name_and_a_port(value, name):
    assert host_name(value) == name


def test_an_address_of_ipv6_is_served_however_it_is_written():
    assert status_of(request("/health", host="[2001:db8::1]:1"), hosts=["2001:DB8:0::1"]) == 200
    assert status_of(request("/health", host="[2001:db8::2]:1"), hosts=["2001:DB8:0::1"]) == 421


def test_any_name_is_served_where_none_is_listed():
    assert status_of(request("/health", host="anything.example"), hosts=[]) == 200


def test_an_open_server_takes_addresses_but_no_name_that_a_page_could_have():
    options = {"tokens": [], "hosts": [*LOOPBACK_NAMES, "models.example"], "takes_addresses": True}
    for host in ("10.0.0.1:8000", "[2001:db8::2]:80", "localhost", "Models.Example"):
        assert status_of(request("/health", host=host), **options) == 200
    for host in ("evil.example", "10.0.0.1.evil.example", "2130706433", "10.1"):
        assert status_of(request("/health", host=host), **options) == 421
    assert status_of(request("/health", host="10.0.0.1"), **options | {"takes_addresses": 0}) == 421


def test_only_a_token_makes_every_name_right():
    assert hosts_of("0.0.0.0", [], ["token"]) == ((), False)
    assert hosts_of("0.0.0.0", ["a"], ["token"]) == (("a", *LOOPBACK_NAMES, "0.0.0.0"), False)
    assert hosts_of("0.0.0.0", [], []) == ((*LOOPBACK_NAMES, "0.0.0.0"), True)
    assert hosts_of("127.0.0.1", [], []) == ((*LOOPBACK_NAMES, "127.0.0.1"), False)


@pytest.mark.parametrize(
    ("value", "nearest"),
    [
        ("https://models.here/v1", "models.here"),
        ("*.models.here", "models.here"),
        ("models.here/v1", "models.here"),
        ("*", "models.example"),
        ("", "models.example"),
        ("[::zz]", "models.example"),
    ],
)
def test_an_allowed_host_that_no_header_can_have_is_refused(value, nearest):
    check_allowed_hosts(["a.example", "a.example:80", "10.0.0.1", "::1", "[::1]:80"])
    with pytest.raises(UsageError) as caught:
        check_allowed_hosts(["a.example", value])
    message = str(caught.value)
    assert f"{value!r} is no host name" in message and message.endswith(f"such as {nearest}")


def test_a_page_elsewhere_may_not_call_but_a_link_may_lead_here():
    cross = {"sec_fetch_site": "cross-site"}
    assert status_of(request("/health", origin="http://localhost")) == 200
    assert status_of(request("/health", origin="http://evil.example")) == 403
    assert status_of(request("/health", origin="null")) == 403
    assert status_of(request("/health", **cross)) == 403
    assert status_of(request("/health", **cross, sec_fetch_mode="navigate")) == 200
    scope = request("/health", **cross, sec_fetch_mode="navigate", origin="http://evil.example")
    assert status_of(scope) == 403


def test_a_client_is_an_address_or_a_network_of_ipv6():
    assert network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("fe80::1%eth0") == "fe80::/64" and network_of("") == ""


def test_only_addresses_of_this_machine_are_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")))
