#!/usr/bin/env bash
# The claude CLI 2.1.330 (in claude-agent-sdk 0.2.187) answers two messages that come during a turn with one result.
# A host that counts one `result` line for each `user` line waits for ever for the third one: send the next message
# after the result of the one before. Seen: three messages, two results.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check claude-agent-sdk==0.2.187
cat >"$folder/model.py" <<'PYTHON'
"""A model on loopback that says "ok", its first time after the file `go` is there. Prints its port."""
import json, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

go = pathlib.Path(sys.argv[1], "go")


class Model(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        pathlib.Path(sys.argv[1], "asked").touch()
        while not go.exists():
            time.sleep(0.02)
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "x", "content": [], "usage": usage}
        block = {"type": "text", "text": ""}
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ok"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
            {"type": "message_stop"},
        ]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
cat >"$folder/host.py" <<'PYTHON'
import json, os, pathlib, subprocess, sys, time, uuid

folder = pathlib.Path(sys.argv[1])
(cli,) = folder.glob("venv/lib/python*/site-packages/claude_agent_sdk/_bundled/claude")
model = subprocess.Popen([sys.executable, folder / "model.py", folder], stdout=subprocess.PIPE, text=True)
(folder / "home").mkdir()
environment = {
    "PATH": os.environ["PATH"],
    "HOME": str(folder / "home"),
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{model.stdout.readline().strip()}",
    "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
}
flags = "--output-format=stream-json --input-format=stream-json --verbose --replay-user-messages"
agent = subprocess.Popen(
    [cli, *flags.split()], env=environment, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)


def say(text):
    message = {"role": "user", "content": text}
    line = {"type": "user", "uuid": str(uuid.uuid4()), "session_id": "", "parent_tool_use_id": None, "message": message}
    agent.stdin.write(json.dumps(line) + "\n")
    agent.stdin.flush()


try:
    say("one")
    while not (folder / "asked").exists():
        time.sleep(0.02)
    say("two")
    say("three")
    queued = 0
    results = []
    for line in agent.stdout:
        event = json.loads(line)
        if event["type"] == "command_lifecycle" and event["state"] == "queued":
            queued += 1
            if queued == 3:
                (folder / "go").touch()
                agent.stdin.close()
        if event["type"] == "result":
            results.append(event["result"])
    print(f"3 messages, {len(results)} results")
finally:
    for process in (agent, model):
        process.kill()
        process.wait()
PYTHON
found=$(timeout 120 "$folder/venv/bin/python" "$folder/host.py" "$folder")
echo "claude 2.1.330: $found"
test "$found" = "3 messages, 2 results"
