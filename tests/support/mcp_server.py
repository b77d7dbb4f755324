"""An MCP server with the tool ``hello``, which says what token the server was given, and ``count``, whose result has
structure.

As a program it is one on stdin and stdout, and its token is the variable TOKEN; `serving_mcp` has it over HTTP, with a
header for the token. https://modelcontextprotocol.io/specification/
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


def _reply(message: dict[str, Any], token: str) -> bytes | None:
    """None for what is no request."""
    if "id" not in message:
        return None
    result = _answer(message["method"], message.get("params", {}), token)
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


def _answer(method: str, params: dict[str, Any], token: str) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "hello", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        about = {"hello": "Says hello", "count": "Counts"}
        return {"tools": [{"name": n, "description": d, "inputSchema": {"type": "object"}} for n, d in about.items()]}
    if params["name"] == "count":
        link = {"type": "resource_link", "uri": "file:///numbers", "name": "numbers"}
        return {"content": [{"type": "text", "text": "three"}, link], "structuredContent": {"number": 3}}
    said = f"hello from the operator's server {token}".rstrip()
    return {"content": [{"type": "text", "text": said}]}


@contextmanager
def serving_mcp() -> Iterator[str]:
    """Its URL. The token is what each request has in its header ``X-Token``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = _reply(message, self.headers.get("X-Token", ""))
            self._send(202 if body is None else 200, body or b"")

        def do_GET(self) -> None:
            self._send(405)

        do_DELETE = do_GET

        def _send(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mcp"
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    for line in sys.stdin:
        if (reply := _reply(json.loads(line), os.environ.get("TOKEN", ""))) is not None:
            print(reply.decode(), flush=True)


if __name__ == "__main__":
    main()
