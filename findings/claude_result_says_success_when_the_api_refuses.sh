#!/usr/bin/env bash
# The claude CLI 2.1.330 (in claude-agent-sdk 0.2.187) ends a turn that the API refused with `"subtype": "success"`.
# A host that looks at `subtype` shows the error's text as the model's answer: look at `is_error`. Seen: a request that
# the API answers with 400, and subtype "success", is_error true, terminal_reason "api_error", exit status 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check claude-agent-sdk==0.2.187
cat >"$folder/host.py" <<'PYTHON'
import json, os, pathlib, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": "this is refused"}}
        body = json.dumps(error).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


folder = pathlib.Path(sys.argv[1])
(cli,) = folder.glob("venv/lib/python*/site-packages/claude_agent_sdk/_bundled/claude")
server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
threading.Thread(target=server.serve_forever, daemon=True).start()
(folder / "home").mkdir()
environment = {
    "PATH": os.environ["PATH"],
    "HOME": str(folder / "home"),
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}",
    "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
}
flags = "--print --output-format=stream-json --verbose"
done = subprocess.run(
    [cli, *flags.split(), "hello"], env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=100
)
(result,) = [event for event in map(json.loads, done.stdout.splitlines()) if event["type"] == "result"]
print(result["subtype"], result["is_error"], result.get("terminal_reason"), done.returncode)
PYTHON
found=$("$folder/venv/bin/python" "$folder/host.py" "$folder")
echo "claude 2.1.330: $found"
test "$found" = "success True api_error 1"
