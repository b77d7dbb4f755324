"""The ``result`` lines of the CLI, which end a turn: its stop reason, its usage and its cost. Sans-IO."""

from __future__ import annotations

from typing import Any

from portico.core.events import Complete, ErrorEvent
from portico.core.prices import PriceTable
from portico.plugins.claude_code.cli_failures import turn_failure
from portico.plugins.claude_code.spending import Spending

Json = dict[str, Any]


NO_OUTPUT = ErrorEvent(
    type="error",
    error="The agent has ended the turn without an output that fits the output_schema.",
    code="no_structured_output",
)


class Results:
    """The results of one CLI process."""

    def __init__(self, prices: PriceTable, *, resumed: bool = False) -> None:
        self._spending = Spending(prices, resumed=resumed)

    def completed(self, result: Json, failure: Json | None, refusal: Json | None) -> tuple[ErrorEvent | None, Complete]:
        """Return the error of the turn, if there was one, and its end. See `turn_failure`."""
        error, stop_reason = _stop_reason(result, failure, refusal)
        complete = self._spending.end(stop_reason, result)
        if isinstance(output := result.get("structured_output"), dict):
            complete["structured_output"] = output
        return error, complete

    def part(self, now: Any) -> Complete:
        """Do as `Spending.part`."""
        return self._spending.part(now)

    def keep(self, complete: Complete) -> None:
        """Keep the spending of a result that ends no turn for the next one that does."""
        self._spending.keep(complete)


def lacks_output(result: Json, complete: Complete) -> bool:
    """Tell whether the model has ended a turn without a structured output, which it was asked for twice.

    A command of the CLI's own, such as /compact, has none either, and its result counts no tokens.
    """
    usage = result.get("usage")
    spoken = isinstance(usage, dict) and bool(usage.get("output_tokens"))
    return spoken and complete["stop_reason"] == "end_turn" and "structured_output" not in complete


def _stop_reason(result: Json, failure: Json | None, refusal: Json | None) -> tuple[ErrorEvent | None, str]:
    """Return the error, if there was one, and the reason why the turn stopped."""
    reason = result.get("stop_reason")
    if result.get("is_error") is not True:
        return None, reason if isinstance(reason, str) and reason != "tool_use" else "end_turn"
    if str(result.get("terminal_reason")).startswith("aborted"):
        return None, "interrupted"
    if result.get("subtype") == "error_max_turns":
        return None, "max_turns"
    code, text = turn_failure(result, failure, refusal)
    return ErrorEvent(type="error", error=text, code=code), "refusal" if reason == "refusal" else "error"
