"""The driver ``claude-agent-sdk``, which is a package of its own in `examples`, for servers of tests."""

import os

from tests.support.server import ROOT

SDK_PACKAGE = ROOT / "examples" / "portico-claude-agent-sdk"

SDK_DRIVER = {
    "PORTICO_DRIVER": "claude-agent-sdk",
    "PORTICO_PLUGINS": "portico_claude_agent_sdk",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, SDK_PACKAGE))),
}
"""The environment in which a server has this driver."""
