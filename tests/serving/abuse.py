"""Requests of an attacker, and the statuses that they must get: a table.

The server has the model `recurrence_text` of the tests.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.serving.sockets import get, post

COMPLETIONS = "/v1/completions"
MODEL = "recurrence_text"
TOKEN = "sesame-" + "x" * 20


@dataclass(frozen=True)
class Case:
    """A request as bytes, in which PORT stands for the server's; statuses: those that are right.

    method: the request's, if the answer has no body for it. is_more: whether the bytes go on after
    the request.
    """

    name: str
    request: bytes
    statuses: tuple[int, ...]
    method: str = "GET"
    is_more: bool = False


def _cases(status: int | tuple[int, ...], **requests: bytes) -> list[Case]:
    statuses = (status,) if isinstance(status, int) else status
    return [Case(name, request, statuses) for name, request in requests.items()]


def ask(**fields: Any) -> bytes:
    """Return a request for a completion."""
    return post(COMPLETIONS, {"model": MODEL, "prompt": "1", "max_tokens": 1} | fields)


def long_stream(tokens: int, **fields: Any) -> dict[str, Any]:
    """Return the body of a request for a text that does not end before its tokens are written."""
    body = {"model": MODEL, "prompt": "1", "max_tokens": tokens, "stream": True}
    return body | {"logit_bias": {"0": -100}} | fields


def _json(text: str | bytes) -> bytes:
    """Return a request whose body has `text` after the members that are needed."""
    text = text if isinstance(text, bytes) else text.encode()
    return post(COMPLETIONS, b'{"model":"%s","max_tokens":1,' % MODEL.encode() + text + b"}")


def _chunked(body: bytes, *headers: str) -> bytes:
    return post(COMPLETIONS, body, "Transfer-Encoding: chunked", *headers)


def _chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def _schema(schema: Any) -> bytes:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return ask(response_format=wanted)


def _nested_schema(depth: int) -> dict[str, Any]:
    text = '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth
    return json.loads(text)


GOOD = json.dumps({"model": MODEL, "prompt": "1", "max_tokens": 1}).encode()
HOSTLESS = "GET {} HTTP/1.1\r\n{}\r\n"

REQUEST_LINES = [
    *_cases(
        400,
        garbage=b"\x00\x01\x02\x03 garbage\r\n\r\n",
        tls=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        other_protocol=b"SSH-2.0-OpenSSH_9.7\r\n\r\n",
        no_version=b"GET /health\r\n\r\n",
        only_newlines=b"\r\n\r\n\r\n\r\n",
        space_in_path=get("/hea lth"),
        byte_in_path=get("/h\xe9alth"),
        tab_in_request_line=b"GET\t/health\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
        brackets_in_method=get("/health", method="GE(T"),
        no_target=b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        absolute_target=get("http://localhost/health"),
        absolute_target_elsewhere=get("http://169.254.169.254/latest/meta-data"),
        authority_target=get("example.com:443", method="CONNECT"),
        asterisk_target=get("*", method="OPTIONS"),
        lower_case_version=b"GET /health http/1.1\r\nHost: localhost\r\n\r\n",
    ),
    *_cases(
        505,
        http_2=get("/health").replace(b"HTTP/1.1", b"HTTP/2.0"),
        http_2_preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        http_1_9=get("/health").replace(b"HTTP/1.1", b"HTTP/1.9"),
    ),
    *_cases(
        404,
        double_slash=get("//health"),
        trailing_slash=get("/health/"),
        trailing_dot=get("/health."),
        path_parameter=get("/health;x=1"),
        dot_segment=get("/./health"),
        dot_segments=get("/v1/../health"),
        encoded_dot_segments=get("/%2e%2e/health"),
        encoded_slash=get("/%2Fhealth"),
        encoded_twice=get("/%2568ealth"),
        nul_in_path=get("/health%00"),
        newline_in_path=get("/health%0d%0aSet-Cookie:%20x=1"),
        terminal_codes_in_path=get("/%1b%5b2J%1b%5d0;x%07"),
        fragment=get("/health#x"),
        upper_case_path=get("/HEALTH"),
        traversal=get("/../../../../etc/passwd"),
        encoded_traversal=get("/..%2f..%2f..%2fetc%2fpasswd"),
        backslash_traversal=get("/..%5c..%5cwindows"),
        invalid_utf_8_in_path=get("/%ff%fe"),
        invalid_escape_in_path=get("/%zz"),
        long_path=get("/" + "a" * 10_000),
        docs_of_frameworks=get("/redoc"),
        other_model=get("/v1/models/..%2f..%2fconfig.json"),
    ),
    *_cases(
        200,
        encoded_letter=get("/%68ealth"),
        query_is_ignored=get("/health?<script>alert(1)</script>"),
        upgrade_is_ignored=get(
            "/health", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"
        ),
        http_1_0_with_host=b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ),
    *_cases(
        405,
        lower_case_method=get("/health", method="get"),
        options=get("/health", method="OPTIONS"),
        preflight=get(
            COMPLETIONS, "Access-Control-Request-Method: POST", "Host: localhost", method="OPTIONS"
        ).replace(b"Host: localhost\r\n", b"", 1),
        trace=get("/health", method="TRACE"),
        put=get("/health", method="PUT"),
        delete=get("/v1/models", method="DELETE"),
        unknown_method=get("/health", method="BREW"),
        long_method=get("/health", method="A" * 1000),
        override=post("/health", b"", "X-HTTP-Method-Override: GET"),
        get_completion=get(COMPLETIONS),
    ),
    Case("head", get("/health", method="HEAD"), (200,), "HEAD"),
    Case("head_of_post", get(COMPLETIONS, method="HEAD"), (405,), "HEAD"),
    Case("head_of_no_route", get("/HEALTH", method="HEAD"), (404,), "HEAD"),
]

HOSTS = [
    *_cases(
        400,
        no_host=HOSTLESS.format("/health", "").encode(),
        no_host_in_http_1_0=b"GET /health HTTP/1.0\r\n\r\n",
        two_hosts=get("/health", "Host: localhost"),
        two_hosts_one_other=get("/health", "Host: evil.example"),
        empty_host=get("/health", host=""),
        list_of_hosts=get("/health", host="localhost, evil.example"),
        host_with_user=get("/health", host="localhost@evil.example"),
        host_with_path=get("/health", host="localhost/evil.example"),
        host_with_wrong_port=get("/health", host="localhost:127.0.0.1"),
        host_with_long_port=get("/health", host="localhost:99999999"),
        host_without_bracket=get("/health", host="[::1"),
        bare_ipv6=get("/health", host="::1"),
        host_of_bytes=get("/health", host="\xe9vil"),
    ),
    *_cases(
        421,
        rebinding=get("/health", host="evil.example"),
        rebinding_completion=ask().replace(b"Host: localhost", b"Host: evil.example"),
        prefix_of_other_host=get("/health", host="127.0.0.1.evil.example"),
        suffix_of_other_host=get("/health", host="evil-localhost"),
        host_with_dot=get("/health", host="localhost."),
        decimal_address=get("/health", host="2130706433"),
        any_address=get("/health", host="0.0.0.0"),
        other_ipv6=get("/health", host="[::2]:80"),
    ),
    *_cases(
        200,
        host_in_upper_case=get("/health", host="LOCALHOST:PORT"),
        ipv6=get("/health", host="[::1]:PORT"),
        long_ipv6=get("/health", host="[0:0:0:0:0:0:0:1]"),
        forwarded_host_is_ignored=get("/health", "X-Forwarded-Host: evil.example"),
    ),
]

ORIGINS = [
    *_cases(
        403,
        other_origin=get("/v1/models", "Origin: http://evil.example"),
        null_origin=get("/v1/models", "Origin: null"),
        two_origins=get("/v1/models", "Origin: http://localhost", "Origin: http://evil.example"),
        other_port=get("/v1/models", "Origin: http://localhost:1"),
        longer_origin=get("/v1/models", "Origin: http://localhost.evil.example"),
        cross_site=get("/v1/models", "Sec-Fetch-Site: cross-site"),
        same_site=get("/v1/models", "Sec-Fetch-Site: same-site"),
        form_of_other_page=post(
            COMPLETIONS, GOOD, "Content-Type: text/plain", "Origin: http://evil.example"
        ),
    ),
    *_cases(
        200,
        own_origin=get("/v1/models", "Origin: http://localhost:PORT", host="localhost:PORT"),
        same_origin=get("/v1/models", "Sec-Fetch-Site: same-origin"),
        link=get("/v1/models", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
    ),
]

HEADERS = [
    *_cases(
        400,
        space_before_colon=get("/health", "Content-Length : 5"),
        no_colon=get("/health", "nonsense"),
        no_name=get("/health", ": x"),
        nul_in_header=get("/health", "X-A: a\x00b"),
        return_in_header=get("/health", "X-A: a\rb"),
        continued_first=b"GET /health HTTP/1.1\r\n folded: x\r\nHost: localhost\r\n\r\n",
    ),
    *_cases(
        431,
        long_header=get("/health", "X-A: " + "a" * 20_000),
        long_name=get("/health", "A" * 20_000 + ": x"),
        long_target=get("/" + "a" * 20_000),
        long_query=get("/health?" + "a" * 20_000),
        many_headers=get("/health", *(f"X-{number}: x" for number in range(3000))),
        endless_header=b"GET /health HTTP/1.1\r\nX-A: " + b"a" * 300_000,
        endless_line=b"G" * 300_000,
        long_cookie=get("/health", "Cookie: " + "c=1; " * 5000),
    ),
    *_cases(
        200,
        folded_header=get("/health", "X-A: a\r\n b"),
        range_is_ignored=get("/health", "Range: bytes=0-,0-,0-," + "0-," * 1000 + "0-"),
        unknown_expectation=get("/health", "Expect: tea"),
        script_in_user_agent=get("/health", 'User-Agent: ${jndi:ldap://x}"}\\n{"event":"x'),
    ),
]

LENGTHS = [
    Case(
        "length_too_short", post(COMPLETIONS, GOOD + b"\r\n\r\n", length=10), (400,), is_more=True
    ),
    *_cases(
        400,
        length_and_chunks=post(
            COMPLETIONS, b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"
        ),
        two_lengths=post(COMPLETIONS, GOOD, "Content-Length: 5", "Content-Length: 6"),
        list_of_lengths=post(COMPLETIONS, GOOD, "Content-Length: 5, 6"),
        plus_length=post(COMPLETIONS, GOOD, "Content-Length: +5"),
        negative_length=post(COMPLETIONS, GOOD, "Content-Length: -1"),
        hexadecimal_length=post(COMPLETIONS, GOOD, "Content-Length: 0x10"),
        exponent_length=post(COMPLETIONS, GOOD, "Content-Length: 1e3"),
        fraction_length=post(COMPLETIONS, GOOD, "Content-Length: 5.0"),
        empty_length=post(COMPLETIONS, GOOD, "Content-Length: "),
        length_of_words=post(COMPLETIONS, GOOD, "Content-Length: five"),
        length_of_30_digits=post(COMPLETIONS, GOOD, "Content-Length: " + "9" * 30),
        chunks_in_http_1_0=_chunked(_chunk(GOOD) + b"0\r\n\r\n").replace(b"1.1", b"1.0", 1),
    ),
    *_cases(
        413,
        length_of_20_digits=post(COMPLETIONS, b"", "Content-Length: " + "9" * 20),
        length_over_limit=post(COMPLETIONS, b"", "Content-Length: 2000000"),
        length_over_limit_expected=post(
            COMPLETIONS, b"", "Content-Length: 2000000", "Expect: 100-continue"
        ),
        body_over_limit=post(COMPLETIONS, b" " * 2_000_000),
        chunks_over_limit=_chunked(_chunk(b" " * 60_000) * 40 + b"0\r\n\r\n"),
    ),
    *_cases(
        501,
        coding_gzip=post(COMPLETIONS, GOOD, "Transfer-Encoding: gzip"),
        coding_list=post(COMPLETIONS, GOOD, "Transfer-Encoding: chunked, identity"),
        coding_twice=post(
            COMPLETIONS, b"", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"
        ),
        coding_identity=post(COMPLETIONS, GOOD, "Transfer-Encoding: identity"),
    ),
    *_cases(
        200,
        chunks=_chunked(_chunk(GOOD[:9]) + _chunk(GOOD[9:]) + b"0\r\n\r\n"),
        chunk_extension=_chunked(_chunk(GOOD, b';a="b"') + b"0\r\n\r\n"),
        trailer=_chunked(_chunk(GOOD) + b"0\r\nHost: evil.example\r\n\r\n"),
        expected_body=post(COMPLETIONS, GOOD, "Expect: 100-continue"),
        equal_lengths=post(COMPLETIONS, GOOD, f"Content-Length: {len(GOOD)}, {len(GOOD)}"),
        body_of_a_get=get("/health", "Content-Length: 5") + b"hello",
    ),
    *_cases(
        400,
        chunk_of_words=_chunked(b"zz\r\n"),
        chunk_negative=_chunked(b"-1\r\n"),
        chunk_huge=_chunked(b"f" * 30 + b"\r\n"),
        chunk_without_end=_chunked(b"3\r\nabcdef\r\n"),
        chunks_tiny=_chunked(b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n"),
    ),
    *_cases(
        431,
        chunk_extension_endless=_chunked(b"1;" + b"a" * 300_000),
        trailer_endless=_chunked(_chunk(GOOD) + b"0\r\nX: " + b"a" * 300_000),
    ),
]

MEDIA = [
    *_cases(
        415,
        no_type=post(COMPLETIONS, GOOD, "Content-Type: "),
        text_type=post(COMPLETIONS, GOOD, "Content-Type: text/plain"),
        form_type=post(COMPLETIONS, GOOD, "Content-Type: application/x-www-form-urlencoded"),
        multipart_type=post(COMPLETIONS, GOOD, "Content-Type: multipart/form-data; boundary=x"),
        pickle_type=post(COMPLETIONS, b"\x80\x04.", "Content-Type: application/octet-stream"),
        long_type=post(COMPLETIONS, GOOD, "Content-Type: application/json" + "x" * 9000),
        gzip=post(COMPLETIONS, GOOD, "Content-Encoding: gzip"),
        gzip_twice=post(COMPLETIONS, GOOD, "Content-Encoding: identity, gzip"),
        deflate=post(COMPLETIONS, GOOD, "Content-Encoding: identity", "Content-Encoding: br"),
    ),
    *_cases(
        200, type_with_charset=post(COMPLETIONS, GOOD, "Content-Type: Application/JSON;charset=x")
    ),
]

JSON = [
    *_cases(
        400,
        empty=post(COMPLETIONS, b""),
        not_json=post(COMPLETIONS, b"hello"),
        list_body=post(COMPLETIONS, b"[]"),
        string_body=post(COMPLETIONS, b'"x"'),
        null_body=post(COMPLETIONS, b"null"),
        truncated=post(COMPLETIONS, GOOD[:-1]),
        garbage_after=post(COMPLETIONS, GOOD + b"x"),
        two_objects=post(COMPLETIONS, GOOD + GOOD),
        comments=_json('"prompt":"1" /* x */'),
        single_quotes=_json("'prompt':'1'"),
        nan=_json('"temperature":NaN'),
        infinity=_json('"temperature":Infinity'),
        minus_infinity=_json('"logit_bias":{"1":-Infinity}'),
        exponent=_json('"temperature":1e999'),
        long_integer=_json('"seed":' + "9" * 400_000),
        integer_of_4000_digits=_json('"seed":' + "9" * 4000),
        long_float=_json('"temperature":' + "9" * 4000),
        long_bias=_json('"logit_bias":{"1":' + "9" * 4000 + "}"),
        lone_surrogate=_json('"prompt":"\\ud800"'),
        lone_surrogate_in_name=_json('"\\udfff":1'),
        surrogate_in_bytes=_json(b'"prompt":"\xed\xa0\x80"'),
        invalid_utf_8=_json(b'"prompt":"\xff"'),
        overlong_utf_8=_json(b'"prompt":"\xc0\x80"'),
        utf_16=post(COMPLETIONS, GOOD.decode().encode("utf-16")),
        byte_order_mark=post(COMPLETIONS, b"\xef\xbb\xbf" + GOOD),
        raw_control_character=_json(b'"prompt":"\x00"'),
        deep_lists=post(COMPLETIONS, b"[" * 900_000),
        deep_objects=post(COMPLETIONS, b'{"a":' * 150_000),
        deep_prompt=_json('"prompt":' + "[" * 190 + "]" * 190),
        deep_metadata=_json('"metadata":' + "[" * 100_000 + "]" * 100_000),
        long_name=_json('"' + "a" * 900_000 + '":1'),
        control_characters_in_name=_json('"a\\u0000\\u001b[2J\\n":1'),
        many_names=_json(",".join(f'"{number}":1' for number in range(60_000))),
        prototype=_json('"__proto__":{"n":1}'),
    ),
    *_cases(
        200,
        last_of_two_keys=_json('"n":99,"n":1'),
        nul_in_prompt=_json('"prompt":"1","user":"\\u0000"'),
        nulls=_json('"n":null,"stop":null,"stream":null,"logit_bias":null,"seed":null'),
    ),
    *_cases(
        404,
        last_model=_json('"model":"other"'),
        path_as_model=ask(model="../../../../etc/passwd"),
        control_characters_in_model=ask(model="\x00\x1b[2J\r\nX: y"),
        long_model=ask(model="m" * 500_000),
    ),
]

VALUES = [
    Case(f"{name}_{number}", ask(**{name: value}), (400,))
    for name, values in {
        "model": [None, 1, [], {}],
        "prompt": [1, {}, [], [[]], [-1], [1 << 31], [10**30], [1.5], [True], ["a", 1], [["a"]]],
        "n": [0, -1, 17, 10**9, 10**30, "1", True, 1.5, []],
        "max_tokens": [-1, 10_000_000, 1 << 31, 10**30, "1", True, 1.5],
        "temperature": [-1, 3, "hot", [], True],
        "top_p": [-1, 1.1],
        "top_k": [-1, 10**30],
        "min_p": [-0.1, 1.1],
        "repetition_penalty": [0, -1, 1000],
        "frequency_penalty": [-3, 3],
        "logprobs": [-1, 6, True, "5"],
        "seed": [1 << 63, -(1 << 63) - 1, "x", 1.5],
        "stop": [["a"] * 5, "a" * 257, [1], {}],
        "logit_bias": [
            {"x": 1},
            {"-1": 1},
            {"1000": 1},
            {"1": "x"},
            {"9" * 30: 1},
            {"1": 1e300},
            [],
            {"": 1},
        ],
        "stream": ["yes", 1],
        "stream_options": [{"include_usage": True}, {"x": 1}, []],
        "response_format": [{"type": "x"}, {"type": "json_schema"}, [], {"type": "regex"}],
        "suffix": ["x"],
        "best_of": [5, -1],
        "functions": [[]],
    }.items()
    for number, value in enumerate(values)
]

BULK = _cases(
    400,
    many_prompts=ask(prompt=["1"] * 129),
    many_wrong_prompts=ask(prompt=[1.5] * 200_000),
    many_empty_prompts=ask(prompt=[[]] * 200_000),
    many_lists_of_wrong_tokens=ask(prompt=[[1.5]] * 120_000),
    many_tokens=ask(prompt=[1] * 300_000),
    many_biases=ask(logit_bias={str(number): 1 for number in range(60_000)}),
    many_wrong_biases=ask(logit_bias={str(number): "x" for number in range(60_000)}),
    many_stops=ask(stop=["a"] * 100_000),
    long_key_of_bias=ask(logit_bias={"9" * 900_000: 1}),
    all_at_most=ask(prompt=["1"] * 128, n=16),
)

GRAMMARS = _cases(
    400,
    schema_is_no_schema=_schema({"type": "nonsense"}),
    schema_of_wrong_types=_schema({"properties": 5, "required": {}}),
    schema_from_elsewhere=_schema({"$ref": "http://169.254.169.254/schema.json"}),
    schema_from_file=_schema({"$ref": "file:///etc/passwd"}),
    schema_too_large=_schema({"enum": ["x" * 70_000]}),
    schema_with_wrong_pattern=_schema({"type": "string", "pattern": "(((("}),
    schema_without_values=_schema({"enum": []}),
    schema_with_negative_lengths=_schema({"type": "string", "minLength": -5, "maxLength": -9}),
)

BOMBS = _cases(
    (200, 400),
    schema_of_itself=_schema({"$ref": "#"}),
    schema_of_each_other=_schema(
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    ),
    schema_of_many_copies=_schema({"type": "string", "pattern": "((((a{99}){99}){99}){99}){99}"}),
    schema_of_backtracking=_schema({"type": "string", "pattern": "^(a+)+$"}),
    schema_of_long_repeats=_schema({"type": "string", "minLength": 10**9}),
    schema_of_many_items=_schema({"type": "array", "minItems": 10**9, "items": {"enum": [1]}}),
    schema_of_many_choices=_schema({"anyOf": [{"const": number} for number in range(3000)]}),
    schema_nested=_schema(_nested_schema(60)),
    schema_of_permutations=_schema(
        {"allOf": [{"anyOf": [{"const": a}, {"const": b}]} for a in range(40) for b in range(40)]}
    ),
    schema_of_many_properties=_schema(
        {"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}
    ),
)
"""Grammars that grow when they are compiled: refused, or followed, within the limits of both."""

OPEN_CASES = [
    *REQUEST_LINES,
    *HOSTS,
    *ORIGINS,
    *HEADERS,
    *LENGTHS,
    *MEDIA,
    *JSON,
    *VALUES,
    *BULK,
    *GRAMMARS,
]


def _shown(*values: str) -> Iterable[str]:
    return (f"Authorization: {value}" for value in values)


TOKEN_CASES = [
    *_cases(
        401,
        no_token=get("/v1/models"),
        empty_token=get("/v1/models", *_shown("Bearer ")),
        only_scheme=get("/v1/models", *_shown("Bearer")),
        empty_header=get("/v1/models", *_shown("")),
        wrong_token=get("/v1/models", *_shown("Bearer wrong")),
        shorter_token=get("/v1/models", *_shown(f"Bearer {TOKEN[:-1]}")),
        longer_token=get("/v1/models", *_shown(f"Bearer {TOKEN}x")),
        token_in_upper_case=get("/v1/models", *_shown(f"Bearer {TOKEN.upper()}")),
        token_twice=get("/v1/models", *_shown(f"Bearer {TOKEN} {TOKEN}")),
        two_headers=get("/v1/models", *_shown(f"Bearer {TOKEN}", f"Bearer {TOKEN}")),
        right_and_wrong=get("/v1/models", *_shown("Bearer wrong", f"Bearer {TOKEN}")),
        basic=get("/v1/models", *_shown(f"Basic {TOKEN}")),
        no_scheme=get("/v1/models", *_shown(TOKEN)),
        long_token=get("/v1/models", *_shown("Bearer " + "x" * 10_000)),
        token_of_bytes=get("/v1/models", *_shown("Bearer \xff\xfe\xe9")),
        token_in_query=get(f"/v1/models?token={TOKEN}&api_key={TOKEN}"),
        token_in_cookie=get("/v1/models", f"Cookie: Authorization=Bearer {TOKEN}"),
        token_in_other_header=get("/v1/models", f"X-Api-Key: {TOKEN}"),
        encoded_route=get("/v1%2Fmodels"),
        encoded_letters=get("/%76%31/models"),
        route_by_other_header=get("/v1/models", "X-Original-URL: /health", "X-Rewrite-URL: /"),
        forwarded_prefix=get("/v1/models", "X-Forwarded-Prefix: /health"),
        metrics=get("/metrics"),
        description=get("/openapi.json"),
        completion=ask(),
        completion_over_limit=post(COMPLETIONS, b" " * 2_000_000),
        completion_not_json=post(COMPLETIONS, b"["),
    ),
    *_cases(
        404,
        no_route_without_token=get("/v1/secrets"),
        path_behind_public_route=get("/health/v1/models"),
        dots_behind_public_route=get("/health/../v1/models"),
        parameters_behind_public_route=get("/health;/v1/models"),
    ),
    *_cases(
        421, token_and_other_host=get("/v1/models", *_shown(f"Bearer {TOKEN}"), host="evil.example")
    ),
    *_cases(
        403,
        token_and_other_origin=get(
            "/v1/models", *_shown(f"Bearer {TOKEN}"), "Origin: http://evil.example"
        ),
    ),
    *_cases(
        200,
        right_token=get("/v1/models", *_shown(f"Bearer {TOKEN}")),
        lower_case_scheme=get("/v1/models", *_shown(f"bearer   {TOKEN}")),
        public_route_with_wrong_token=get("/health", *_shown("Bearer wrong")),
    ),
]
