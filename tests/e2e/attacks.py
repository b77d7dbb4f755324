"""Attacks of strangers, clients and web pages: the bytes that are sent, and the answer that must come back."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

from websockets.frames import Opcode

from tests.support.websocket import frame

CONT, TEXT, BINARY, CLOSE, PING, _ = Opcode
TOKEN = b"THE-TOKEN"
"""In what is sent: takes the place of the real one."""
KIB = 1024


@dataclass(frozen=True, slots=True)
class Attack:
    """``status`` is that of the one answer, ``code`` its problem's; or, of `SOCKETS`, that of the close frame.

    ``more`` is sent afterwards, again and again, as long as the server takes it.
    """

    name: str
    sent: bytes
    status: int | None
    code: str | None = None
    more: bytes = b""

    @property
    def endless(self) -> bool:
        """Tell whether the server stops reading in the middle of it."""
        return bool(self.more) or len(self.sent) > 64 * KIB


def head(path: str, *fields: str, method: str = "GET", version: str = "1.1", host: str = "localhost") -> bytes:
    """A head with the token in it, without its end."""
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", f"Authorization: Bearer {TOKEN.decode()}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


def request(path: str, *fields: str, **parts: str) -> bytes:
    return head(path, *fields, **parts) + b"\r\n"


def post(body: bytes, *fields: str, path: str = "/claude/sessions", kind: str = "application/json") -> bytes:
    return request(path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields, method="POST") + body


def chunked(body: bytes, coding: str = "chunked", version: str = "1.1") -> bytes:
    fields = ("Content-Type: application/json", f"Transfer-Encoding: {coding}")
    return request("/claude/sessions", *fields, method="POST", version=version) + body


def lengths(*values: str) -> bytes:
    fields = (f"Content-Length: {value}" for value in values)
    return request("/claude/sessions", "Content-Type: application/json", *fields, method="POST") + b"{}"


NO_PDF = {"type": "base64", "media_type": "application/pdf", "data": "PGh0bWw+"}


def query(text: object) -> bytes:
    return post(json.dumps({"query": text}).encode(), path="/claude/sessions/s/turns")


def page(origin: str, path: str, method: str, *fields: str) -> bytes:
    return request(path, f"Origin: {origin}", "Sec-Fetch-Site: cross-site", *fields, method=method)


LIST = "/claude/sessions"
LONG = b"x" * 64 * KIB
EVIL = "https://evil.example"

SMUGGLING = [
    Attack("two lengths", lengths("2", "3"), 400, "malformed"),
    Attack("one length twice", lengths("2", "2"), 400, "malformed"),
    Attack("a list of lengths", lengths("2, 2"), 400, "malformed"),
    Attack("a length with a sign", lengths("+2"), 400, "malformed"),
    Attack("a hexadecimal length", lengths("0x2"), 400, "malformed"),
    Attack("a negative length", lengths("-1"), 400, "malformed"),
    Attack("a length beyond all numbers", lengths("9" * 30), 400, "malformed"),
    Attack("a length and chunks", request(LIST, "Content-Length: 2", "Transfer-Encoding: chunked"), 400, "malformed"),
    Attack("chunks and a length", request(LIST, "Transfer-Encoding: chunked", "Content-Length: 2"), 400, "malformed"),
    Attack("a blank before the colon", request(LIST, "Transfer-Encoding : chunked"), 400, "malformed"),
    Attack("an unknown coding", chunked(b"0\r\n\r\n", "xchunked"), 501, "unsupported_transfer_coding"),
    Attack("compressed chunks", chunked(b"2\r\n{}\r\n0\r\n\r\n", "gzip, chunked"), 501, "unsupported_transfer_coding"),
    Attack("chunked, but not last", chunked(b"0\r\n\r\n", "chunked, identity"), 400, "malformed"),
    Attack("no coding at all", chunked(b"0\r\n\r\n", "identity"), 501, "unsupported_transfer_coding"),
    Attack("chunks in HTTP/1.0", chunked(b"2\r\n{}\r\n0\r\n\r\n", version="1.0"), 400, "malformed"),
    Attack("a negative chunk", chunked(b"-2\r\n{}\r\n0\r\n\r\n"), 400, "malformed"),
    Attack("a hexadecimal chunk, marked", chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400, "malformed"),
    Attack("a chunk beyond all numbers", chunked(b"f" * 18 + b"\r\n{}"), 400, "malformed"),
    Attack("a chunk without its end", chunked(b"2\r\n{}xx0\r\n\r\n"), 400, "malformed"),
    Attack("chunks with bare line feeds", chunked(b"2\n{}\n0\n\n"), 400, "malformed"),
    Attack("a bare line feed in an extension", chunked(b"2;a\n{}\r\n0\r\n\r\n"), 400, "malformed"),
    Attack("an extension without end", chunked(b"2;" + LONG * 8), 431, "head_too_large"),
    Attack("a trailer without end", chunked(b"0\r\na: " + LONG * 8), 431, "head_too_large"),
    Attack("trailers without end", chunked(b"0\r\n" + b"a: b\r\n" * 60_000), 431, "head_too_large"),
    Attack("a folded header", request(LIST, "X: a\r\n b"), 400, "malformed"),
    Attack("a header folded into the first line", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400, "malformed"),
    Attack("bare line feeds", request(LIST).replace(b"\r\n", b"\n"), 400, "malformed"),
    Attack("one bare line feed", request(LIST, "X: a\nY: b"), 400, "malformed"),
    Attack("a bare carriage return", request(LIST, "X: a\rY: b"), 400, "malformed"),
    Attack("a NUL in a header", request(LIST, "X: a\0b"), 400, "malformed"),
    Attack("a header without a colon", request(LIST, "X"), 400, "malformed"),
    Attack("a header without a name", request(LIST, ": a"), 400, "malformed"),
]

HEADS = [
    Attack("no HTTP", b"\0" * 1000, 400, "malformed"),
    Attack("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
    Attack("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
    Attack("an unknown version", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "malformed"),
    Attack("an endless method", b"A" * 200_000, 400, "malformed"),
    Attack("an endless URL", b"GET /" + LONG * 8, 414, "uri_too_long"),
    Attack("a long query in the URL", request("/claude/stream/s?query=" + "x" * 40_000), 414, "uri_too_long"),
    Attack("an endless header", head(LIST) + b"X: " + LONG * 8, 431, "head_too_large"),
    Attack("too many headers", request(LIST, *(f"X{n}: y" for n in range(300))), 431, "head_too_large"),
    Attack("too many parameters", request(f"{LIST}?" + "&".join(f"a{n}=1" for n in range(2000))), 400, "malformed"),
    Attack("a parameter twice", request(f"{LIST}?limit=1&limit=2"), 400, "malformed"),
    Attack("a parameter that is no UTF-8", request(f"{LIST}?cursor=%ff"), 400, "malformed"),
    Attack("a secret in the URL", request(f"{LIST}?token={TOKEN.decode()}"), 422, "invalid"),
    Attack("a number of 10,000 digits", request(f"{LIST}?limit=" + "9" * 10_000), 422, "invalid"),
    Attack("a folder above", request("/claude/sessions/../../../etc/passwd"), 404, "not_found"),
    Attack("a folder above, encoded", request("/claude/sessions/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404, "not_found"),
    Attack("a NUL in the path", request("/claude/sessions/%00"), 404, "session_not_found"),
    Attack("an unknown method", request(LIST, method="PUT"), 405, "method_not_allowed"),
    Attack("a method that shows headers", request(LIST, method="TRACE"), 405, "method_not_allowed"),
    Attack("a proxy's method", request("localhost:1", method="CONNECT"), 400, "malformed"),
    Attack("two tokens", request(LIST, "Authorization: Bearer other"), 401, "unauthenticated"),
    Attack("a wrong token", request(LIST).replace(TOKEN, b"wrong"), 401, "unauthenticated"),
    Attack("a token that is no text", request(LIST).replace(TOKEN, b"\xff\xfe"), 401, "unauthenticated"),
    Attack("an endless token", request(LIST).replace(TOKEN, b"x" * 50_000), 401, "unauthenticated"),
    Attack("a password", request(LIST).replace(b"Bearer", b"Basic"), 401, "unauthenticated"),
    Attack("an event id of somebody else's", request("/claude/stream/s?query=x", "Last-Event-ID: x"), 400, "malformed"),
]

BODIES = [
    Attack("arrays in arrays", post(b"[" * 100_000), 400, "malformed"),
    Attack("closed arrays in arrays", post(b'{"metadata":{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}}"), 400),
    Attack("objects in objects", post(b'{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 901), 422, "invalid"),
    Attack("a number of 100,000 digits", post(b'{"max_turns":' + b"9" * 100_000 + b"}"), 400, "malformed"),
    Attack("a float beyond all", post(b'{"max_turns":1e999}'), 400, "malformed"),
    Attack("not a number", post(b'{"max_turns":NaN}'), 400, "malformed"),
    Attack("infinity", post(b'{"max_turns":-Infinity}'), 400, "malformed"),
    Attack("a name twice", post(b'{"title":"a","title":"b"}'), 400, "malformed"),
    Attack("thousands of names", post(json.dumps({str(n): n for n in range(2000)}).encode()), 400, "malformed"),
    Attack("no UTF-8", post(b'{"title":"\xff"}'), 400, "malformed"),
    Attack("UTF-16", post('{"title":"a"}'.encode("utf-16")), 400, "malformed"),
    Attack("a mark of the byte order", post(b"\xef\xbb\xbf{}"), 400, "malformed"),
    Attack("half a character in a title", post(b'{"title":"\\ud800"}'), 422, "invalid"),
    Attack("half a character in a name", post(b'{"\\ud800":1}'), 422, "invalid"),
    Attack("hundreds of blocks", query([{"type": "text", "text": "x"}] * 3000), 422, "invalid"),
    Attack("thousands of blocks", query([{"type": "text", "text": "x"}] * 5000), 413, "too_many_values"),
    Attack("an image that is none", query([{"type": "image", "source": "http://169.254.169.254/"}]), 422, "invalid"),
    Attack(
        "hundreds of thousands of objects",
        post(b'{"metadata":{"a":[' + b"{}," * 200_000 + b"{}]}}"),
        413,
        "too_many_values",
    ),
    Attack("a member that nobody knows", post(b'{"__proto__":{},"is_admin":true}'), 422, "invalid"),
    Attack("an id that is a path", post(b'{"session_id":"../../x"}'), 422, "invalid"),
    Attack("a folder elsewhere", post(b'{"cwd":"/etc"}'), 403, "not_allowed"),
    Attack(
        "subagents that nobody allows", post(b'{"agents":{"a":{"description":"d","prompt":"p"}}}'), 403, "not_allowed"
    ),
    Attack("no schema", post(b'{"output_schema":{"type":"object","properties":[]}}'), 422, "invalid"),
    Attack("half a character in a schema", post(b'{"output_schema":{"type":"object","\\ud800":1}}'), 422, "invalid"),
    Attack("a PDF that is none", query([{"type": "document", "source": NO_PDF}]), 422, "invalid"),
    Attack("a folder above the root", post(b'{"cwd":"../../../../etc"}'), 422, "invalid_cwd"),
    Attack("no asking for permission", post(b'{"permission_mode":"bypassPermissions"}'), 403, "not_allowed"),
    Attack("a second tool behind the first", post(b'{"allowed_tools":["Read(x),Bash"]}'), 422, "invalid"),
    Attack("a compressed bomb", post(b"\x1f\x8b\x08\0" * 10, "Content-Encoding: gzip"), 415, "unsupported_media_type"),
    Attack("compressed, said second", post(b"{}", "Content-Encoding: identity", "Content-Encoding: br"), 415),
    Attack("a form", post(b"query=x", kind="application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
    Attack("plain text, as a page may send it", post(b'{"query":"x"}', kind="text/plain"), 415),
    Attack("a body that is too large", lengths(str(10**9)), 413, "too_large", more=LONG),
    Attack(
        "chunks that are too large",
        chunked(b'a\r\n{"title":"\r\n'),
        413,
        "too_large",
        more=b"10000\r\n" + LONG + b"\r\n",
    ),
]

PAGES = [
    Attack("a name that leads here (DNS rebinding)", request(LIST, host="evil.example"), 403, "host_not_allowed"),
    Attack("the same with a port", request(LIST, host="evil.example:8787"), 403, "host_not_allowed"),
    Attack("a name that begins like ours", request(LIST, host="localhost.evil.example"), 403, "host_not_allowed"),
    Attack("a name with our name as its user", request(LIST, host="localhost@evil.example"), 403, "host_not_allowed"),
    Attack("a second name", request(LIST, "Host: evil.example"), 403, "host_not_allowed"),
    Attack("no name", request(LIST).replace(b"Host: localhost\r\n", b""), 403, "host_not_allowed"),
    Attack("another's name, as a proxy has it", request(LIST, "X-Forwarded-Host: localhost", host="evil.example"), 403),
    Attack("a page's image", request("/claude/stream/s?query=x", "Sec-Fetch-Site: cross-site"), 403),
    Attack("a link", request("/claude/stream/s?query=x", "Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"), 403),
    Attack("a page's EventSource", page(EVIL, "/claude/stream/s?query=x", "GET"), 403, "origin_not_allowed"),
    Attack("a page's form", page(EVIL, "/claude/stream/s", "POST"), 403, "origin_not_allowed"),
    Attack("a page without an origin", page("null", "/claude/stream/s?query=x", "GET"), 403, "origin_not_allowed"),
    Attack("a page that deletes", page(EVIL, "/claude/sessions/s", "DELETE"), 403, "origin_not_allowed"),
    Attack("a page that asks whether it may", page(EVIL, LIST, "OPTIONS", "Access-Control-Request-Method: POST"), 403),
    Attack("a page one port away", page("http://localhost:1", "/claude/stream/s", "POST"), 403, "origin_not_allowed"),
    Attack("a page's prefetch", request("/claude/stream/s?query=x", "Sec-Purpose: prefetch"), 405),
    Attack("a question for the head", request("/claude/stream/s?query=x", method="HEAD"), 405),
]

HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def upgrade(*fields: str, path: str = "/claude/ws/s", host: str = "localhost") -> bytes:
    return request(path, *HANDSHAKE, *fields, host=host)


V1 = upgrade(KEY, "Sec-WebSocket-Protocol: portico.v1")
PLAIN = upgrade(KEY)

HANDSHAKES = [
    Attack("a page's WebSocket", upgrade(KEY, f"Origin: {EVIL}"), 403, "origin_not_allowed"),
    Attack("a WebSocket under another name", upgrade(KEY, host="evil.example"), 403, "host_not_allowed"),
    Attack("no key", upgrade(), 400, "bad_handshake"),
    Attack("a short key", upgrade("Sec-WebSocket-Key: x"), 400, "bad_handshake"),
    Attack("a handshake with POST", PLAIN.replace(b"GET", b"POST", 1), 405),
    Attack("a handshake full of headers", upgrade(KEY, *(f"X{n}: y" for n in range(200))), 400, "malformed"),
    Attack("another upgrade", PLAIN.replace(b"websocket", b"h2c", 1), 426),
]

SOCKETS = [
    Attack("a wrong token, at a WebSocket", PLAIN.replace(TOKEN, b"wrong"), 4401),
    Attack("a session that is not there", upgrade(KEY, path="/claude/ws/none"), 4404),
    Attack("a parameter that nobody knows", upgrade(KEY, path="/claude/ws/s?token=x"), 4400),
    Attack("no UTF-8", PLAIN + frame(TEXT, b"\xff"), 1007),
    Attack("an unknown opcode", PLAIN + frame(3), 1002),
    Attack("not masked", PLAIN + frame(TEXT, b"x", mask=False), 1002),
    Attack("compressed", PLAIN + frame(TEXT, b"x", rsv=4), 1002),
    Attack("a beginning in the middle", PLAIN + frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    Attack("the middle without a beginning", PLAIN + frame(CONT, b"x"), 1002),
    Attack("a control frame in pieces", PLAIN + frame(PING, b"x", fin=False), 1002),
    Attack("a long control frame", PLAIN + frame(PING, b"x" * 126), 1002),
    Attack("a close code that is none", PLAIN + frame(CLOSE, struct.pack("!H", 1005)), 1002),
    Attack("a frame of 2^63 bytes", PLAIN + b"\x81\xff\x7f" + b"\xff" * 7 + b"mask", 1009, more=LONG),
    Attack("a frame that is too large", PLAIN + frame(TEXT, LONG * 5), 1009),
    Attack("fragments that are too large", PLAIN + frame(TEXT, LONG, fin=False) + frame(CONT, LONG * 4), 1009),
    Attack(
        "thousands of fragments that are too large",
        PLAIN + frame(TEXT, fin=False) + frame(CONT, b"x" * 100, fin=False) * 3000,
        1009,
    ),
    Attack("bytes", PLAIN + frame(BINARY, b"x"), 4400, "binary_message"),
    Attack("no JSON", V1 + frame(TEXT, b"hello"), 4400, "malformed"),
    Attack("no object", V1 + frame(TEXT, b"[]"), 4400, "malformed"),
    Attack("arrays in arrays", V1 + frame(TEXT, b"[" * 100_000), 4400, "malformed"),
    Attack("a number of 5,000 digits", V1 + frame(TEXT, b'{"id":' + b"9" * 5000 + b"}"), 4400, "malformed"),
    Attack("a type that is none", V1 + frame(TEXT, b'{"type":{"a":[]}}'), 4400, "malformed"),
    Attack("a query that is none", V1 + frame(TEXT, b'{"type":"query","content":7}'), 4400, "invalid"),
    Attack("a frame behind the last", V1 + frame(CLOSE, struct.pack("!H", 1000)) + frame(TEXT, b"x"), 1000),
    Attack("HTTP inside", PLAIN + request(LIST), 1002),
]
