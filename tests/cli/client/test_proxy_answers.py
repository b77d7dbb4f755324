"""A proxy that answers by itself, with pages of HTML: the client says who that was, and what to set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from portico.cli.client.api import Client
from portico.cli.client.connection import find_endpoint
from portico.cli.client.errors import ProblemError, Unreachable
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio

PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
HAPROXY = "<html><body><h1>{0}</h1>\nNo server is available to handle this request.\n</body></html>\n"


@asynccontextmanager
async def answering(status: str, server: str | None, page: str = PAGE) -> AsyncIterator[str]:
    """The address of a proxy that answers everything like this."""
    body = page.format(status)
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/html", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"Server: {server}"] if server is not None else []
    answer = "\r\n".join([*lines, "", body]).encode("latin-1")

    async def handle(client: SocketStream) -> None:
        async with client:
            await client.receive()
            await client.send(answer)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610
        tasks.cancel_scope.cancel()


async def test_a_wrong_token_is_told_as_one_after_many_others_too(tmp_path: Path) -> None:
    problem = '{{"code": "too_many_attempts", "detail": "the credentials are not valid"}}'
    async with answering("429 Too Many Requests", None, problem) as url:
        endpoint = find_endpoint({"PORTICO_TOKEN": "wrong"}, tmp_path, server=url)
        async with Client(endpoint) as client:
            with pytest.raises(ProblemError, match="does not take the token from PORTICO_TOKEN"):
                await client.create_session({})


@pytest.mark.parametrize(
    ("status", "server", "page", "said"),
    [
        (
            "413 Request Entity Too Large",
            "nginx/1.22.1",
            PAGE,
            ["(nginx/1.22.1)", "413", "`client_max_body_size 32m;`"],
        ),
        ("413 Content Too Large", "Apache/2.4.71 (Debian)", PAGE, ["(Apache/2.4.71 (Debian))", "`LimitRequestBody"]),
        ("414 Request-URI Too Large", "nginx", PAGE, ["414", "`large_client_header_buffers 4 32k;`"]),
        ("431 Request Header Fields Too Large", "lighttpd/1.4.69", PAGE, ["431", "`server.max-request-field-size"]),
        ("502 Bad Gateway", "nginx/1.22.1", PAGE, ["502", "Is that running?", "`proxy_pass`"]),
        ("503 Service Unavailable", None, HAPROXY, ["(HAProxy, it seems)", "503", "`the line server of its backend`"]),
        ("503 Service Unavailable", "envoy", "upstream connect error", ["(envoy)", "503", "`its cluster`"]),
        ("504 Gateway Timeout", "nginx/1.22.1", PAGE, ["504", "in time", "`proxy_read_timeout 3600s;`"]),
        ("413 Too Large", "gateway-of-mine", PAGE, ["gateway-of-mine", "(nginx)", "(apache)", "(envoy)"]),
        ("413 Too Large", None, PAGE, ["a proxy on the way", "(nginx)"]),
        ("413 Too Large", "a\x9b31mred", PAGE, ["a<U+009B>31mred"]),
        ("403 Forbidden", "nginx/1.22.1", PAGE, ["no Portico server (status 403 from nginx/1.22.1)"]),
        ("404 Not Found", "Apache/2.4.71", PAGE, ["(status 404 from Apache/2.4.71)", "needs that path"]),
        ("200 OK", "nginx/1.22.1", PAGE, ["no Portico server (status 200 from nginx/1.22.1)"]),
    ],
)
async def test_who_answered_is_named_and_which_setting(
    tmp_path: Path, status: str, server: str | None, page: str, said: list[str]
) -> None:
    async with answering(status, server, page) as url:
        async with Client(find_endpoint({}, tmp_path, server=url)) as client:
            with anyio.fail_after(HANG_SECONDS), pytest.raises(Unreachable) as raised:
                await client.create_session({})
    for text in [*said, url]:
        assert text in str(raised.value)
    assert "<html>" not in str(raised.value) and "<h1>" not in str(raised.value)
