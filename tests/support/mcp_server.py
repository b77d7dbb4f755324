"""An MCP server on stdin and stdout with one tool, ``hello``: https://modelcontextprotocol.io/specification/."""

import json
import sys
from typing import Any


def _answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "hello", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [{"name": "hello", "description": "Says hello", "inputSchema": {"type": "object"}}]}
    return {"content": [{"type": "text", "text": "hello from the operator's server"}]}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = _answer(message["method"], message.get("params", {}))
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
