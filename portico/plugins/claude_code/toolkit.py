"""The parts that an external driver may build on to start the `claude` CLI and to speak its protocol.

Only the names in ``__all__`` are public.
"""

from portico.core.sums import summed
from portico.plugins.claude_code.buffer import EventBuffer
from portico.plugins.claude_code.claude_agent import EXIT_TIME, SETTLE_TIME
from portico.plugins.claude_code.cli import find_cli
from portico.plugins.claude_code.cli_calls import CHANGE_TIME, CONTROL_TIME
from portico.plugins.claude_code.cli_failures import exit_text, start_failure
from portico.plugins.claude_code.config import DriverConfig
from portico.plugins.claude_code.framer import Oversized
from portico.plugins.claude_code.host import CliHost
from portico.plugins.claude_code.items import Answered, Done, Item, Moved, Refused, Send, Taken
from portico.plugins.claude_code.launch import Launch
from portico.plugins.claude_code.lines import decode_in_turns
from portico.plugins.claude_code.mode_hook import mode_ruling, needs_mode_hook
from portico.plugins.claude_code.process import CliProcess
from portico.plugins.claude_code.protocol import Protocol

__all__ = [
    "CHANGE_TIME",
    "CONTROL_TIME",
    "EXIT_TIME",
    "SETTLE_TIME",
    "Answered",
    "CliHost",
    "CliProcess",
    "Done",
    "DriverConfig",
    "EventBuffer",
    "Item",
    "Launch",
    "Moved",
    "Oversized",
    "Protocol",
    "Refused",
    "Send",
    "Taken",
    "decode_in_turns",
    "exit_text",
    "find_cli",
    "mode_ruling",
    "needs_mode_hook",
    "start_failure",
    "summed",
]
