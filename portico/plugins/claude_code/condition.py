"""The condition of the CLI, as its lines report it: the permission mode and the model in force. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from portico.core.events import AgentEvent, AgentMode, AgentModel
from portico.plugins.claude_code.mode_hook import MODES

Json = dict[str, Any]

PLAN = "plan"

SEVERAL = frozenset({"opusplan"})
"""Names that stand for several models, of which the CLI reports one: the name stays the session's."""


class Condition:
    """The condition of a CLI that was started in the permission mode ``mode`` with ``model`` (None: its own choice).

    ``unsure`` is true if the model may have changed since the last report.
    """

    def __init__(self, mode: str, model: str | None = None) -> None:
        self.model = model
        self.unsure = False
        self._mode = mode
        self._mode_before_plan = "default" if mode == PLAN else mode
        self._mode_told = True
        self._model_told = True
        self._reported: str | None = None  # the last report since the model was set

    @property
    def mode_after_plan(self) -> str:
        """The permission mode to which the CLI changes once its plan is approved."""
        return self._mode_before_plan if self._mode == PLAN else self._mode

    def forget_told(self) -> None:
        """Report everything again: nobody heard the earlier report."""
        self._mode_told = self._model_told = False

    def set_model(self, model: str | None) -> None:
        """Note that the CLI was told to use ``model``."""
        if model != self.model:
            self.model, self._reported = model, None

    def reported(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the changes that a ``system`` line of the subtype ``init`` or ``status`` reports."""
        if isinstance(mode := line.get("permissionMode"), str):
            yield from self._mode_is(MODES.get(mode, mode))
        model = line.get("model")  # a ``status`` seldom has one
        if isinstance(model, str) and model != self.model and self.model is not None:
            self.unsure = True  # a command of a project's may have a model for its own turn
        yield from self.model_is(model)

    def fell_back(self, line: Json) -> Iterator[AgentEvent]:
        """Yield the change that a ``model_fallback`` or a ``model_refusal_fallback`` reports."""
        if line.get("scope") == "local":  # only a subagent has fallen back
            return
        self.unsure = True  # it may hold for this turn alone
        if line.get("direction") != "revert":
            yield from self.model_is(line.get("fallback_model"))

    def model_is(self, model: Any) -> Iterator[AgentEvent]:
        """Yield the change if ``model``, the model in force, is another one than before."""
        if not isinstance(model, str) or not model or (model == self._reported and self._model_told):
            return
        first, self._reported = self._reported is None, model
        if first and self.model in SEVERAL:
            return
        if model != self.model or not self._model_told:
            self.model, self._model_told = model, True
            yield AgentModel(type="model", model=model)

    def _mode_is(self, mode: str) -> Iterator[AgentEvent]:
        if mode == PLAN != self._mode:
            self._mode_before_plan = self._mode
        if mode != self._mode or not self._mode_told:
            self._mode, self._mode_told = mode, True
            yield AgentMode(type="permission_mode", permission_mode=mode)
