"""The real CLI reads a list of tool rules as `tests.support.rules` says, by which other tests judge."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import anyio
import pytest

from portico.core.tool_rule import ToolRule
from tests.core.test_tool_rule import GOOD
from tests.support.agents import real_cli
from tests.support.limits import HANG_SECONDS
from tests.support.rules import heard

pytestmark = [pytest.mark.anyio, pytest.mark.real_cli]

STRANGE = [
    *(
        "Read(x),Write",
        "Read(x) Write",
        "Read(x)\nWrite",
        "Read (x)",
        "Read(x)Write(y)",
        "Read(x)(y)",
        "Read((x),Write)",
    ),
    *("Read(x)),Write", "Read(x\\),Write)", "Read(\\(),Write", "Bash(a\n,b)", "(x),Write", "Read)", "Read\\,Write"),
    *("Bash(echo (1)),Write", "Read(a\\\\),Write", "Read\u00a0Write", "Read\u2028Write"),
]


async def rules(folder: Path, *texts: str) -> list[str]:
    """The rules that the CLI says it has, when it is given ``texts`` in one argument."""
    argv = [
        *(str(real_cli()), "--output-format=stream-json", "--input-format=stream-json", "--verbose"),
        *("--strict-mcp-config", "--setting-sources=", f"--allowedTools={','.join(texts)}"),
    ]
    request = {"type": "control_request", "request_id": "r", "request": {"subtype": "list_permission_rules"}}
    home = {"PATH": os.environ["PATH"], "HOME": str(folder), "CLAUDE_CONFIG_DIR": str(folder), "TMPDIR": str(folder)}
    nobody = {"ANTHROPIC_API_KEY": "not-a-key", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}  # it does not wait for them
    env = {**home, **nobody, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    with anyio.fail_after(HANG_SECONDS):
        done = await anyio.run_process(argv, input=json.dumps(request).encode() + b"\n", env=env, cwd=folder)
    for line in map(json.loads, done.stdout.splitlines()):
        if line["type"] == "control_response":
            return [rule["rule"] for rule in line["response"]["response"]["state"]["rules"]]
    raise AssertionError(done.stdout)


def written(texts: list[str]) -> list[str]:
    """The same of our model, in the way in which the CLI writes rules: each once, and brackets are escaped."""
    found = []
    for tool, content in heard(texts):
        bare = re.sub(r"\\([()\\])", r"\1", content or "")
        escaped = re.sub(r"([()\\])", r"\\\1", bare)
        found.append(tool if content is None else f"{tool}({escaped})")
    return list(dict.fromkeys(found))


async def test_rules_that_are_let_through_are_heard_one_for_one(tmp_path: Path) -> None:
    texts = [text for text in GOOD if text not in ("*", "Bash(*)")]  # it allows nothing by the one, all by the other
    assert await rules(tmp_path, *texts) == written(texts)
    assert [str(ToolRule(*rule)) for rule in heard(texts)] == texts


async def test_what_is_refused_is_heard_as_our_model_says(tmp_path: Path) -> None:
    for text in STRANGE:
        with pytest.raises(ValueError, match="must be"):
            ToolRule.parse(text)
    assert await rules(tmp_path, *STRANGE) == written(STRANGE)
