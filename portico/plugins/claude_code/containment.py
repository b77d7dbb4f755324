"""Containment: everything that an agent starts is kept together, so that it can be killed as a whole.

The mechanisms, in the order of preference:

- ``bubblewrap``: the sandbox, which has a PID namespace too; see `sandbox`.
- ``pid-namespace``: the agent's processes live in a PID namespace and die with its first one. Needs CAP_SYS_ADMIN.
- ``user-pid-namespace``: the same within a user namespace, in which the user keeps their id. Docker's default profile
  and hardened systems refuse it. Programs like sudo do not work in it.
- ``cgroup``: a control group for each agent.
- ``best-effort``: processes are found by a variable in their environment, and by their parents.

In all of them the agent's outermost process asks the kernel to be killed when the server dies (PR_SET_PDEATHSIG; the
server here is the *thread* that runs the event loop). In a namespace everything dies with it; otherwise the next start
reaps what is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from portico.core.git_folders import GitFolder
from portico.plugins.claude_code.arguments import Argument, opened
from portico.plugins.claude_code.cgroup import cgroup_name, clear_cgroup, own_cgroup
from portico.plugins.claude_code.sandbox import Sandbox

PROBE_TIME = 5.0
"""Seconds that one try of a mechanism may take."""

# The first process of a PID namespace has to reap orphans. The CLI does not, so a shell does. `exit` keeps the shell
# from replacing itself with the CLI.
_REAPER = ("-c", '"$@"; exit $?', "sh")
_ENTER = ("-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"')


@dataclass(frozen=True, slots=True)
class Containment:
    """One of the mechanisms above. ``prefix`` goes before an agent's command line; groups are made in ``cgroups``."""

    name: str
    note: str
    prefix: tuple[str, ...] = ()
    cgroups: Path | None = None
    sandbox: Sandbox | None = None

    def describe(self) -> str:
        """Describe the mechanism, for the log and for people."""
        return f"{self.name}: {self.note}"

    def cgroup(self, folder: Path) -> Path | None:
        """Return the control group of the agent with this folder."""
        return self.cgroups / cgroup_name(folder) if self.cgroups is not None else None

    def wrap(
        self,
        argv: Sequence[Argument],
        folder: Path,
        cwd: Path,
        runtime: Path | None = None,
        added: Sequence[Path] = (),
        git: Sequence[GitFolder] = (),
    ) -> list[Argument]:
        """Return the command line that starts ``argv`` contained, in ``cwd``, as the agent with this ``folder``.

        ``runtime`` is the agent's runtime folder if that is not in ``folder``; ``added`` are the folders beside ``cwd``
        that it works in, ``git`` the git folders of worktrees and submodules among all these. Raises OSError, and
        `AgentUnavailable` as `Sandbox.wrap` does.
        """
        if self.sandbox is not None:
            return self.sandbox.wrap(argv, folder, cwd, runtime, added, git)
        group = self.cgroup(folder)
        if group is None:
            return [*self.prefix, *argv]
        group.mkdir(exist_ok=True)
        return [*self.prefix, str(group), *argv]


def sandboxed(sandbox: Sandbox) -> Containment:
    note = "an agent sees its own folders and the system's alone; its processes can't leave, and die with the server"
    return Containment("bubblewrap", note, sandbox=sandbox)


async def detect(search_path: str, among: Sequence[str] = ()) -> Containment:
    """Return the first mechanism that works here, proven by running a command in it. Ends within half a minute.

    The tools are looked for in ``search_path`` (as PATH); ``among`` limits the choice to these names. ``best-effort``
    always works. Raises LookupError if none of ``among`` works.
    """
    guard: tuple[str, ...] = ()
    if (setpriv := shutil.which("setpriv", path=search_path)) is not None:
        guard = (setpriv, "--pdeathsig", "KILL")
        if not await _works(Containment("", "", guard), search_path):
            guard = ()
    for candidate in await anyio.to_thread.run_sync(_candidates, search_path, guard):
        if among and candidate.name not in among:
            continue
        if candidate.name == "best-effort" or await _works(candidate, search_path):
            return candidate
    raise LookupError(f"None of these works here: {', '.join(among)}.")


def _candidates(search_path: str, guard: tuple[str, ...]) -> list[Containment]:
    death = "die with it" if guard else "are killed at the next start"
    found = []
    unshare, shell = (shutil.which(tool, path=search_path) for tool in ("unshare", "sh"))
    if unshare is not None and shell is not None:
        inner = ("--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", shell, *_REAPER)
        note = f"an agent's processes can't leave its PID namespace; should the server be killed, they {death}"
        found = [
            Containment("pid-namespace", note, (*guard, unshare, *inner)),
            Containment("user-pid-namespace", note, (*guard, unshare, "--user", "--map-current-user", *inner)),
        ]
    group = own_cgroup()
    if shell is not None and group is not None and os.access(group, os.W_OK):
        note = (
            "an agent's processes can't leave its control group; should the server be killed, the next start kills them"
        )
        found.append(Containment("cgroup", note, (*guard, shell, *_ENTER), group))
    note = "an agent's processes are found by their environment; a daemon that clears its own escapes"
    return [*found, Containment("best-effort", note, guard)]


async def _works(candidate: Containment, search_path: str) -> bool:
    probe = Path(f"/probe/{os.getpid()}")
    group = candidate.cgroup(probe)
    cleared = True
    result: subprocess.CompletedProcess[bytes] | None = None
    try:
        command = candidate.wrap(["sh", "-c", ":"], probe, probe)
        with opened(command) as (argv, files), anyio.move_on_after(PROBE_TIME):
            result = await anyio.run_process(
                argv,
                check=False,
                stdin=subprocess.DEVNULL,
                env={"PATH": search_path},
                start_new_session=True,
                pass_fds=files,
            )
    except OSError:
        return False
    finally:
        if group is not None:
            cleared = clear_cgroup(group)
    return cleared and result is not None and result.returncode == 0
