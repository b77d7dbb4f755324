"""The prober, which finds out through the network itself whether the bound services can be reached.

It dials in a process of its own: a dial within the listener has crashed it, and with it everybody's connections. That
process lives for one round, so that a library that is stuck or has leaked lasts no longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import anyio

from portico.ziti.listener.listener_control import Task
from portico.ziti.native.library_process import Child, ChildFailed, ChildHung
from portico.ziti.native.limits import ANSWER_SECONDS, MARGIN
from portico.ziti.transport.network_failures import ListenerFailed, lost, unprobed
from portico.ziti.transport.status import Status

SOON_SECONDS = 5.0
"""The time until the next round if somebody seems not to be reached."""
RARELY = 10
"""So many times the usual pause lie between two rounds if this identity may dial nothing."""
FAILURES = 3
"""A binding is lost after so many failures in a row; after each time that it was bound again in vain, twice as many."""
FAILURES_IN_USE = 20
"""The limit while connections work: perhaps only new ones are refused, and these would be cut for nothing."""
MOST_DOUBLINGS = 5
PERMITTED = ("nobody", "unanswered")
"""The failures of dials that this identity may make. The second is the first in openziti 1.x."""
REBINDS = 2
"""After so many vain tries to bind a lost service again, the library may be at fault: the listener is restarted."""

log = logging.getLogger("portico.ziti")

Message = Mapping[str, Any]


class Prober:
    """Probes for one run of the listener. ``in_use`` tells whether a service has open connections.

    It counts failures of a service only once it was reached: before that, the identity perhaps may not dial it. The
    exceptions are failures that show that it may: nobody has bound it, or it was dialled, and nobody has answered.
    """

    def __init__(
        self, task: Task, environment: Mapping[str, str], status: Status, in_use: Callable[[str], bool]
    ) -> None:
        self._task = task
        self._environment = environment
        self._status = status
        self._in_use = in_use
        self._failures: dict[str, int] = {}
        self._rebinds: dict[str, int] = {}
        self._told: set[str] = set()
        self._troubles: set[str] = set()

    async def run(self, rebind: Callable[[str, str], None]) -> NoReturn:
        """Probe for ever. Calls ``rebind`` for a lost service, with the reason. Raises `ListenerFailed` if all are."""
        while True:
            refusals: dict[str, Message] = {}
            await self._probe([service for service in self._task.services if service in self._status.bound], refusals)
            gone = [service for service in refusals if self._is_lost(service, refusals[service])]
            if gone:
                self._give_up(gone, refusals, rebind)
            await anyio.sleep(self._pause(refusals))

    def _pause(self, refusals: Mapping[str, Message]) -> float:
        if any(0 < self._failures.get(s, 0) < FAILURES and r["kind"] in PERMITTED for s, r in refusals.items()):
            return min(SOON_SECONDS, self._task.probe)
        return self._task.probe * (1 if self._failures or not refusals else RARELY)

    async def _probe(self, services: list[str], refusals: dict[str, Message]) -> None:
        """Probe once. Adds why services were not reached, but nothing that is a trouble of the probe's own."""
        before = self._status.probe_failures.total()
        while services:
            try:
                child = Child.start("portico.ziti.dialling_process", self._task.identity, environment=self._environment)
            except ChildFailed as failure:
                self._note_end(failure, "the probe")
                return
            try:
                if not await self._log_in(child):
                    return
                while services:
                    service = services.pop(0)
                    await self._dial(child, service, refusals)
            except ChildFailed as failure:
                self._note_end(failure, f"the probe of the service {service}")
            finally:
                await child.close()
        if self._status.probe_failures.total() == before:
            self._troubles.clear()

    async def _log_in(self, child: Child) -> bool:
        try:
            answer, _ = await child.answer(self._task.load + MARGIN, "logging in")
        except ChildFailed as failure:
            self._note_end(failure, "the probe")
            return False
        if "failed" not in answer:
            return True
        self._note_trouble("refused", "the probe", str(answer["failed"]))
        return False

    async def _dial(self, child: Child, service: str, refusals: dict[str, Message]) -> None:
        child.send({"dial": 0, "service": service, "ask": self._task.probe_path})
        answer, _ = await child.answer(self._task.dial + ANSWER_SECONDS + MARGIN, "a dial")
        if "failed" in answer:
            refusals[service] = _message(answer)
        else:
            self._failures[service] = 0
            self._rebinds.pop(service, None)
            self._status.reached[service] = True

    def _note_end(self, failure: ChildFailed, who: str) -> None:
        self._note_trouble("hung" if isinstance(failure, ChildHung) else "crashed", who, str(failure))

    def _note_trouble(self, reason: str, who: str, words: str) -> None:
        """Note that the probe itself has failed, which says nothing about the listener and the services."""
        self._status.probe_failures[reason] += 1
        text = f"{who} has failed: {words}"
        if text not in self._troubles:
            self._troubles.add(text)
            log.warning("ziti: %s; connections go on, and it is tried again", text)

    def _is_lost(self, service: str, refusal: Message) -> bool:
        """Count a failure."""
        kind = refusal["kind"]
        in_use = self._in_use(service) and kind != "nobody"  # there is no connection where nobody has bound it
        if service not in self._failures:
            if kind not in PERMITTED or self._in_use(service):
                if service not in self._told:
                    self._told.add(service)
                    log.info(
                        "ziti: the service %s is not probed (%s): that its binding is lost may go unnoticed",
                        service,
                        unprobed(refusal),
                    )
                return False
            self._failures[service] = 0
        self._failures[service] += 1
        self._status.reached[service] = False
        limit = FAILURES_IN_USE if in_use else FAILURES << min(self._rebinds.get(service, 0), MOST_DOUBLINGS)
        return self._failures[service] >= limit

    def _give_up(self, gone: list[str], refusals: Mapping[str, Message], rebind: Callable[[str, str], None]) -> None:
        """Let lost services be bound again, which leaves the others alone; raise `ListenerFailed` if there are none."""
        others = self._status.bound - {*gone}
        in_vain = any(self._rebinds.get(service, 0) >= REBINDS for service in gone)
        if not others or (in_vain and not any(map(self._in_use, others))):
            raise ListenerFailed(lost(gone[0], refusals[gone[0]]["text"]))
        for service in gone:
            self._failures[service] = 0
            self._rebinds[service] = self._rebinds.get(service, 0) + 1
            rebind(service, refusals[service]["text"])


def _message(answer: Message) -> Message:
    return {"kind": str(answer.get("kind")), "text": str(answer.get("said"))}
