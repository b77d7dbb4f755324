"""A fake `claude`: an executable that speaks as much of the protocol as a test asks of it.

`fake_cli(folder, *steps)` writes it. Its steps, in order: a string is a line to print, in which ``UUID`` stands for the
uuid of the last message; a number is a line of so many bytes; and further

    {"half": TEXT}     prints without a line feed
    {"wait": N}        reads N lines of stdin (a line without uuid leaves UUID as it is)
    {"turn": TEXT}     reads a message, and answers it with TEXT as the real one would
    {"complain": TEXT} a line on stderr
    {"hang": true}     stays for ever, whatever comes
    {"exit": STATUS}   ends; so it does after the last step
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

_SCRIPT = """#!{python} -S
import json, sys, time
if "--version" in sys.argv:
    print("2.1.330 (Claude Code)")
    sys.exit()
uuid = ""
def out(text, end="\\n"):
    sys.stdout.write(text.replace("UUID", uuid) + end)
    sys.stdout.flush()
def hear():
    global uuid
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    uuid = json.loads(line).get("uuid", uuid)
def answer(text):
    hear()
    said = {{"id": "msg_1", "content": [{{"type": "text", "text": text}}]}}
    for line in (
        {{"type": "command_lifecycle", "command_uuid": "UUID", "state": "started"}},
        {{"type": "system", "subtype": "init", "user_message_uuids": ["UUID"]}},
        {{"type": "assistant", "message": said, "parent_tool_use_id": None}},
        {{"type": "result", "subtype": "success", "is_error": False, "stop_reason": "end_turn",
          "user_message_uuids": ["UUID"]}},
        {{"type": "command_lifecycle", "command_uuid": "UUID", "state": "completed"}},
    ):
        out(json.dumps(line))
for step in json.loads({steps!r}):
    if isinstance(step, str):
        out(step)
    elif isinstance(step, int):
        out("x" * step)
    elif "half" in step:
        out(step["half"], "")
    elif "wait" in step:
        for _ in range(step["wait"]):
            hear()
    elif "turn" in step:
        answer(step["turn"])
    elif "complain" in step:
        print(step["complain"], file=sys.stderr, flush=True)
    elif "hang" in step:
        while True:
            time.sleep(3600)
    else:
        sys.exit(step["exit"])
"""


def fake_cli(folder: Path, *steps: Any) -> Path:
    """Write the program into ``folder``; return where it is."""
    path = folder / "claude"
    path.write_text(_SCRIPT.format(python=sys.executable, steps=json.dumps(steps)))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
