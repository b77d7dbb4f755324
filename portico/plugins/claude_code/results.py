"""The ``result`` lines of the CLI, which end a turn: its stop reason, its usage and its cost. Sans-IO."""

from __future__ import annotations

from typing import Any

from portico.core.events import Complete, ErrorEvent
from portico.plugins.claude_code.cli_failures import turn_failure

Json = dict[str, Any]

USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Results:
    """The results of one CLI process, whose costs are cumulative."""

    def __init__(self) -> None:
        self._cost = 0.0

    def completed(self, result: Json, cli_error: str | None) -> tuple[ErrorEvent | None, Complete]:
        """Return the error of the turn, if there was one, and its end. ``cli_error`` is from an ``assistant`` line."""
        usage = result.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        error, stop_reason = _stop_reason(result, cli_error)
        return error, Complete(
            type="complete",
            stop_reason=stop_reason,
            usage={name: usage[name] for name in USAGE if isinstance(usage.get(name), int)},
            cost_usd=self._cost_since_last(result),
        )

    def _cost_since_last(self, result: Json) -> float:
        """Return the cost since the last result.

        ``total_cost_usd`` is cumulative, and a resumed process continues from where the last one ended, if that ended
        well (after a SIGKILL it begins at 0). So the difference is used only if the CLI does not report the cost
        itself.
        """
        total = result.get("total_cost_usd")
        total = float(total) if isinstance(total, int | float) else self._cost
        before, self._cost = self._cost, total
        models = result.get("model_usage_since_last_result")
        if isinstance(models, dict):
            costs = (model.get("costUSD") for model in models.values() if isinstance(model, dict))
            return float(sum(cost for cost in costs if isinstance(cost, int | float)))
        return max(0.0, total - before)


def no_usage(stop_reason: str) -> Complete:
    """Return the end of a turn that the CLI ended without a result."""
    return Complete(type="complete", stop_reason=stop_reason, usage={}, cost_usd=0.0)


def _stop_reason(result: Json, cli_error: str | None) -> tuple[ErrorEvent | None, str]:
    """Return the error, if there was one, and the reason why the turn stopped."""
    reason = result.get("stop_reason")
    if result.get("is_error") is not True:
        return None, reason if isinstance(reason, str) and reason != "tool_use" else "end_turn"
    if str(result.get("terminal_reason")).startswith("aborted"):
        return None, "interrupted"
    if result.get("subtype") == "error_max_turns":
        return None, "max_turns"
    code, text = turn_failure(result, cli_error)
    return ErrorEvent(type="error", error=text, code=code), "refusal" if reason == "refusal" else "error"
