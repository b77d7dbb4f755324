"""The limits of an answer to a permission request: it may do no more than the operator allows, whoever gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from portico.core.agent import AgentOptions, Decision, Suggestion
from portico.core.events import Notice, PermissionRequest
from portico.core.policy import Policy
from portico.core.suggestions import allowed, chosen, fitting, kept, whole_tool, without_id


@dataclass(frozen=True, slots=True)
class Judgement:
    """An answer as it counts: ``decision`` for the agent, ``rules`` that the session keeps from now on, besides those
    that it has, and ``notices`` of the parts that were left out.
    """

    decision: Decision
    rules: Sequence[Suggestion] = ()
    notices: Sequence[Notice] = ()


def judge(
    decision: Decision,
    request: PermissionRequest,
    policy: Policy,
    options: AgentOptions,
    folders: Mapping[str, str],
    *,
    lasting: bool = False,
) -> Judgement:
    """Judge ``decision``. ``options`` are the session's; ``folders`` are those that `open_folders` has found.

    If the agent takes rules from the session (``lasting``), it remembers only what was suggested. Raises `NotAllowed`,
    and `InvalidRequest` (``unknown_suggestion``).
    """
    if decision.behavior == "deny":
        return Judgement(decision)
    if (mode := decision.permission_mode or request.get("permission_mode")) is not None:
        policy.check_mode(str(mode))
    picked = chosen(request, decision.remember)
    if decision.updated_input is not None:
        if decision.updated_input == request["input"]:
            decision = replace(decision, updated_input=None)
        else:
            policy.check_changed_input(request["tool_name"], options)
    if decision.remember is True and not picked:
        return _whole(decision, request, policy, lasting)
    admitted: list[Suggestion] = []
    left: list[Suggestion] = []
    rules = list(options.permission_rules)
    for suggestion in picked:
        found = allowed(suggestion, policy, folders)
        rule = kept(found) if found is not None and lasting else None
        new = rule is not None and rule["id"] not in [each["id"] for each in rules]
        if found is None or (rule is not None and new and not fitting(rules, rule)):
            left.append(suggestion)
            continue
        admitted.append(without_id(found))
        if rule is not None and new:
            rules.append(rule)
    decision = replace(decision, remember=decision.remember is True and not left, remembered=tuple(admitted))
    notices = [_not_remembered(request, left)] if left else []
    return Judgement(decision, rules[len(options.permission_rules) :], notices)


def _whole(decision: Decision, request: PermissionRequest, policy: Policy, lasting: bool) -> Judgement:
    """Judge an answer that remembers everything, where nothing was suggested: the whole tool, if anything."""
    tool = whole_tool(request)
    if not lasting and allowed(tool, policy, {}) is not None:
        return Judgement(decision)
    decision = replace(decision, remember=False)
    if lasting and "permission_mode" in request:  # that is what is remembered
        return Judgement(decision)
    return Judgement(decision, notices=[_not_remembered(request, [] if lasting else [tool])])


def _not_remembered(request: PermissionRequest, suggestions: Sequence[Suggestion]) -> Notice:
    detail = {"request_id": request["request_id"], "suggestions": list(suggestions)}
    return Notice(type="notice", name="not_remembered", detail=detail)
