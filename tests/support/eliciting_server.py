"""An MCP server on stdin and stdout whose tool ``book`` asks the user for data, or, with ``login``, to open a page.

The tool's result is what the user has answered. https://modelcontextprotocol.io/specification/
"""

import json
import sys
from typing import Any

TOOL = {"name": "book", "description": "Books a table", "inputSchema": {"type": "object"}}
SCHEMA = {
    "type": "object",
    "properties": {
        "people": {"type": "integer", "title": "People", "minimum": 1, "maximum": 9},
        "place": {"type": "string", "enum": ["inside", "outside"]},
        "quiet": {"type": "boolean"},
    },
    "required": ["people"],
}
FORM = {"message": "For how many?", "requestedSchema": SCHEMA}
PAGE = {"mode": "url", "message": "Log in first", "url": "http://127.0.0.1:1/login", "elicitationId": "1"}


def main() -> None:
    calls: list[Any] = []
    for line in sys.stdin:
        message = json.loads(line)
        method, known = message.get("method"), message.get("id")
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            about = {"name": "booking", "version": "1"}
            _say(id=known, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about})
        elif method == "tools/list":
            _say(id=known, result={"tools": [TOOL]})
        elif method == "tools/call":
            calls.append(known)
            login = "login" in message["params"].get("arguments", {})
            _say(id=f"asked-{len(calls)}", method="elicitation/create", params=PAGE if login else FORM)
        elif method is None:
            said = json.dumps(message.get("result", message.get("error")))
            _say(id=calls[-1], result={"content": [{"type": "text", "text": said}]})
        elif known is not None:
            _say(id=known, result={})


def _say(**members: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", **members}), flush=True)


if __name__ == "__main__":
    main()
