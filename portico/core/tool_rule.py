"""Tool rules: `Read`, `Bash(git log:*)`. A rule names a tool, and may limit it to certain uses in brackets.

Agents take their rules in one string, which they split at commas and blanks outside of brackets. When they split it,
they recognize other brackets than when they parse a rule (measured on CLI 2.1.330). The grammar here is so narrow that
the two agree: each text that it accepts is exactly one rule, at every position in the list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 512

PATTERN = (
    r"^(?:[A-Za-z_][A-Za-z0-9_-]*"
    r"(?:\*|\((?! *\))[^()\x00-\x1f\x7f-\x9f\u2028\u2029]*[^()\\\x00-\x1f\x7f-\x9f\u2028\u2029]\))?|\*)$"
)
"""A regular expression that is also valid in ECMA-262."""

FORM = "a tool's name, with at most one pair of brackets, around some text without brackets, at its end"

FILE_TOOLS = frozenset({"Read", "Edit", "Write", "MultiEdit", "NotebookEdit", "NotebookRead", "Grep", "Glob", "LS"})
SHELLS = frozenset({"Bash", "Monitor", "PowerShell"})
SUBAGENTS = frozenset({"Agent", "Task"})

_PATTERN = re.compile(PATTERN.removesuffix("$") + r"\Z")


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A rule for all uses of ``tool``, or for those that ``content`` describes. Only the agent knows what that means.

    A ``tool`` that ends in ``*`` stands for all tools whose names begin with the part before it.
    """

    tool: str
    content: str | None = None

    @classmethod
    def parse(cls, text: str) -> ToolRule:
        """Parse one rule. Raises ValueError if ``text`` is not exactly one rule."""
        if len(text) > MAX_LENGTH or _PATTERN.match(text) is None:
            raise ValueError(f"must be {FORM}")
        tool, bracket, rest = text.partition("(")
        return cls(tool, rest.removesuffix(")") if bracket else None)

    @staticmethod
    def may_concern(text: str, tool: str) -> bool:
        """Do as `concerns` for a text; a text that is not a rule may concern every tool."""
        try:
            return ToolRule.parse(text).concerns(tool)
        except ValueError:
            return True

    @staticmethod
    def may_forbid(text: str, tool: str) -> bool:
        """Tell whether a text in ``disallowed_tools`` may forbid every use of ``tool``; if it is not a rule, it may."""
        try:
            rule = ToolRule.parse(text)
        except ValueError:
            return True
        return rule.content is None and rule.concerns(tool)

    def __str__(self) -> str:
        return self.tool if self.content is None else f"{self.tool}({self.content})"

    def covers(self, other: ToolRule) -> bool:
        """Tell whether ``other`` allows nothing that this rule does not allow.

        A narrower content is not recognized: only the whole tool, or the same content, covers a content.
        """
        if self == other:
            return True
        # `Edit` allows one tool, but `Edit(//**)` allows every tool that changes files, and a shell's redirections.
        return self.content is None and self.tool == other.tool != "Edit"

    def concerns(self, tool: str) -> bool:
        """Tell whether this rule may apply to a use of ``tool``.

        A rule with a content applies to the whole family of its tool. Rules about files apply to shells too.
        """
        if self.tool.endswith("*"):
            return tool.startswith(self.tool[:-1])
        if self.tool == tool or {self.tool, tool} <= SUBAGENTS:
            return True
        if self.tool.startswith("mcp__"):
            return tool.startswith(f"{self.tool}__")
        if self.content is None:
            return False
        return (self.tool in FILE_TOOLS and tool in FILE_TOOLS | SHELLS) or {self.tool, tool} <= SHELLS
