"""The sandbox: the part of the machine that an agent, and all that it starts, can see. Made by bubblewrap (bwrap(1)).

The agent sees the system read-only, its workspace and its own folders, its own /tmp, /proc, PIDs and a bare /dev; all
under the same paths as outside. The network is shared: agents talk to MCP servers and install packages.

It can write to its workspace, its own folders, and /dev/shm, which is memory that ends with it; nothing else.

bubblewrap follows symbolic links with the server's rights. So nothing inside a sandbox can write where a later start
mounts something, unless this module guards the place. What is hidden in a workspace can't be moved from inside, and
neither can the folders on the way to it: all of them are mount points.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from portico.core.errors import AgentUnavailable
from portico.core.git_folders import GitFolder
from portico.core.workspaces import OWN_WORKSPACES
from portico.plugins.claude_code.agent_files import open_folder
from portico.plugins.claude_code.arguments import Argument, PrivateArgument, opened
from portico.plugins.claude_code.devices import NODES
from portico.plugins.claude_code.environment import SUBFOLDERS
from portico.plugins.claude_code.git_mounts import make_missing, mounts, unseen
from portico.plugins.claude_code.visible import named_paths, program_paths, system_folders, unreadable

PROBE_TIME = 10.0
"""Seconds that a try may take; it takes 0.01."""

PACKAGE = "on Debian and Ubuntu, `apt install bubblewrap`"

_KEPT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID")
"""The capabilities that root keeps inside: with fewer it can't unpack an archive, or work in another user's folder."""

_PROC = ("acpi", "bus", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")
"""The paths in /proc that the user root may write without any capability (/proc/sys/kernel/core_pattern runs programs
outside). bubblewrap 0.8.0 protects only some of them."""

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108

# SIGTERM is for the CLI: bubblewrap would die of it, and everything else with it.
_OUTSIDE, _INSIDE = ("--ignore-signal=TERM",), ("--default-signal=TERM",)

# Check that the workspace and the folders of these variables are still those that were checked: by now nobody can
# change what is mounted here.
_SAME = (
    'test "$(stat -c %d:%i . {0})" = "$0" || {{ echo "the workspace was moved" >&2; exit 1; }}; unset x {1}; exec "$@"'
)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox. ``command`` starts bubblewrap. ``visible`` paths can be seen, read-only. ``hidden`` paths cannot,
    wherever they are, except for an agent's own folders in them. The siblings of a workspace in ``roots`` cannot be
    seen either. ``devices`` is a folder of nodes for /dev, in place of the machine's own.
    """

    command: tuple[str, ...]
    shell: tuple[str, ...]
    visible: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    roots: tuple[Path, ...] = ()
    devices: Path | None = None

    def wrap(
        self,
        argv: Sequence[Argument],
        folder: Path,
        cwd: Path,
        runtime: Path | None = None,
        added: Sequence[Path] = (),
        git: Sequence[GitFolder] = (),
    ) -> list[Argument]:
        """Return the command line that starts ``argv`` in ``cwd``, as the agent with this ``folder``. It also works in
        the ``added`` folders, and with the git folders of worktrees and submodules among all these.

        The first argument is the program's path. Raises OSError, and `AgentUnavailable` (``workspace_moved``).
        """
        tmp = folder / "tmp"
        with open_folder(folder) as directory:
            directory.folder("tmp").close()
        own = [folder / name for name in SUBFOLDERS if (folder / name).is_dir()]
        own += [runtime] if runtime is not None else []
        hidden = self._hidden((cwd, *added))
        plan = _Plan()
        for path in system_folders():
            plan.system(path)
        for path in (Path("/proc"), Path("/dev")):
            plan.add(f"--{path.name}", path)
        for name in _PROC:
            if os.path.exists(f"/proc/{name}"):
                plan.show(Path("/proc", name))
        if self.devices is not None:
            for name in NODES:
                plan.add("--dev-bind", self.devices / name, Path("/dev", name))
        plan.scratch(Path("/dev"))
        plan.add("--tmpfs", Path("/dev/shm"))  # noqa: S108
        for path in _TEMPORARY:  # a link would not work: paths below the outside path could not be mounted
            plan.bind(tmp, path)
        plan.add("--dir", Path("/run"))
        for path in filter(_has_no_links, self.roots):
            if plan.shows_around(path):  # elsewhere nothing shows, and a root may contain programs, as a home does
                plan.hide(path)
        for path in (*self.visible, *program_paths(Path(str(argv[0])))):
            if not plan.shows(path):
                plan.show(path)
        for path in hidden:
            plan.hide(path)
        for place in sorted({cwd, *added}, key=lambda path: len(path.parts)):  # one may lie in another
            plan.bind(place, place)
            inside = [path for path in hidden if path != place and path.is_relative_to(place)]
            for path in _between(place, inside):
                plan.bind(path, path)
            for path in inside:
                plan.hide(path)
        shared = unseen(git, (cwd, *added))
        make_missing(shared)
        checked = [*added]
        for path, may_write in mounts(shared):
            checked.append(path)
            plan.bind(path, path) if may_write else plan.show(path)
        for path in own:
            plan.bind(path, path)
        _make_mount_points(tmp, plan.places)
        plan.arguments += plan.closing
        plan.add("--remount-ro", Path("/"))
        plan.add("--chdir", cwd)
        variables = [f"PORTICO_ADDED_{number}" for number in range(len(checked))]
        for name, path in zip(variables, checked, strict=True):
            plan.arguments += ["--setenv", name, str(path)]
        same = _SAME.format(" ".join(f'"${name}"' for name in variables), " ".join(variables))
        identities = "\n".join(map(_identity, (cwd, *checked)))
        return [*self.command, "--args", plan.as_argument(), "--", *self.shell, same, identities, *argv]

    def _hidden(self, places: Iterable[Path]) -> list[Path]:
        """Return all paths to hide, without links.

        The link to a file may lead elsewhere by now, to a new secret. If a folder has become a link, an agent did it,
        and the link hides nothing.
        """
        now = [Path(os.path.realpath(path)) for path in self.hidden]
        files = [path for path in now if path.is_file()]
        folders = filter(_has_no_links, (*self.hidden, *(place / OWN_WORKSPACES for place in places)))
        return [path for path in _distinct([*folders, *files]) if path.exists()]


class _Plan:
    """The mounts, in order; later ones cover earlier ones. ``places`` are the mount points; the value tells if it is a
    folder.
    """

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.places: dict[Path, bool] = {}
        self._shown: list[Path] = []
        self._hidden: list[Path] = []
        self._scratch: dict[Path, None] = {}

    @property
    def closing(self) -> list[str]:
        """The options that make the sandbox's own empty folders read-only, once everything in them is mounted."""
        return [word for path in self._scratch for word in ("--remount-ro", str(path))]

    def add(self, option: str, *paths: Path) -> None:
        self.arguments += [option, *map(str, paths)]

    def as_argument(self) -> PrivateArgument:
        """Return the value of ``--args``, as private: a session's workspace, and what is hidden from it, concern nobody
        else.
        """
        return PrivateArgument("", b"".join(os.fsencode(argument) + b"\0" for argument in self.arguments))

    def system(self, path: Path) -> None:
        if path.is_symlink():
            self.add("--symlink", path.readlink(), path)
            self._shown.append(path)
        else:
            self.show(path)

    def shows(self, path: Path) -> bool:
        """Tell whether it can already be seen."""
        shown, hidden = (any(map(path.is_relative_to, paths)) for paths in (self._shown, self._hidden))
        return shown and not hidden

    def shows_around(self, path: Path) -> bool:
        return self.shows(path) and path not in self._shown

    def show(self, path: Path) -> None:
        self._mount("--ro-bind", path, path)
        self._shown.append(path)

    def bind(self, path: Path, place: Path) -> None:
        self._mount("--bind", path, place)

    def hide(self, path: Path) -> None:
        if path.is_symlink():
            return
        self._hidden.append(path)
        if path.is_file():
            self._mount("--ro-bind", Path(os.devnull), path, folder=False)
        elif path.is_dir():
            self.add("--tmpfs", path)
            self.places[path] = True
            self.scratch(path)

    def scratch(self, path: Path) -> None:
        self._uncover(path)
        self._scratch[path] = None

    def _uncover(self, place: Path) -> None:
        """Note a mount here: earlier mounts here and below can no longer be seen."""
        self._scratch = {path: None for path in self._scratch if not path.is_relative_to(place)}

    def _mount(self, option: str, path: Path, place: Path, *, folder: bool | None = None) -> None:
        self.add(option, path, place)
        self.places[place] = path.is_dir() if folder is None else folder
        self._uncover(place)


def _between(cwd: Path, paths: Iterable[Path]) -> list[Path]:
    """Return the folders between ``cwd`` and these paths, outer ones first."""
    found = {parent for path in paths for parent in path.parents if parent != cwd and parent.is_relative_to(cwd)}
    return sorted(found, key=lambda path: len(path.parts))


def _make_mount_points(tmp: Path, places: Mapping[Path, bool]) -> None:
    """Make the mount points below /tmp, which is the agent's own folder ``tmp``.

    A link that the agent left there must not lead anywhere. The agent does not run now. Raises OSError.
    """
    for place, is_folder in places.items():
        for base in _TEMPORARY:
            if place == base or not place.is_relative_to(base):
                continue
            *parents, name = place.relative_to(base).parts
            with ExitStack() as opened:
                directory = opened.enter_context(open_folder(tmp))
                for parent in parents:
                    directory = opened.enter_context(directory.folder(parent))
                if is_folder:
                    directory.folder(name).close()
                else:
                    directory.file(name)


def _has_no_links(path: Path) -> bool:
    return os.path.realpath(path) == str(path)


def _identity(cwd: Path) -> str:
    """Return device and inode of the folder or file, after checking that no symbolic link leads there."""
    number = os.open(cwd, os.O_PATH)
    try:
        if os.readlink(f"/proc/self/fd/{number}") != str(cwd):
            raise AgentUnavailable(
                "The session's workspace is not where it was: a link is there.", code="workspace_moved"
            )
        status = os.fstat(number)
    finally:
        os.close(number)
    return f"{status.st_dev}:{status.st_ino}"


async def find_sandbox(
    search_path: str,
    environment: Mapping[str, str],
    *,
    visible: Iterable[Path] = (),
    hidden: Iterable[Path] = (),
    roots: Iterable[Path] = (),
    devices: Path | None = None,
) -> Sandbox:
    """Find a sandbox that works here, proven by running a command in it. ``environment`` is what all agents have.

    Raises LookupError, which says in words why there is none, and how to fix that.
    """
    bwrap, env, shell = (shutil.which(tool, path=search_path) for tool in ("bwrap", "env", "sh"))
    if bwrap is None:
        raise LookupError(f"there is no program bwrap ({PACKAGE})")
    if env is None or shell is None:
        raise LookupError("there is no program sh or env")
    shown = await anyio.to_thread.run_sync(lambda: _distinct([*named_paths(environment), *visible]))
    covered = await anyio.to_thread.run_sync(lambda: _distinct([*_spellings(hidden), *unreadable(Path("/etc"))]))
    beside = await anyio.to_thread.run_sync(lambda: _distinct(Path(os.path.realpath(root)) for root in roots))
    reason = ""
    for namespaces in _namespaces():
        command = (env, *_OUTSIDE, bwrap, *namespaces, "--die-with-parent", *_rights())
        sandbox = Sandbox(command, (env, *_INSIDE, shell, "-c"), shown, covered, beside, devices)
        why = await try_sandbox(sandbox, search_path)
        if why is None:
            return sandbox
        reason = reason or why
    raise LookupError(f"bwrap does not work here ({reason})")


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))


def _spellings(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each path as it is named, and without symbolic links."""
    for path in paths:
        yield from (path, Path(os.path.realpath(path)))


def _namespaces() -> Iterator[tuple[str, ...]]:
    yield ("--unshare-pid", "--unshare-ipc")
    if os.geteuid() == 0:  # root in a container may need this; others get it by default
        yield ("--unshare-user", "--unshare-pid", "--unshare-ipc")


def _rights() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["--cap-drop", "ALL", *(word for name in _KEPT for word in ("--cap-add", name))]


async def try_sandbox(
    sandbox: Sandbox, search_path: str, *, cwd: Path | None = None, agents: Path | None = None
) -> str | None:
    """Return why it does not work, or None if it does. Tried in ``cwd``, by an agent with a folder in ``agents``.

    Without these, it is tried in the temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="portico-probe-", dir=agents) as name:
        folder = Path(os.path.realpath(name))  # noqa: ASYNC240
        for own in (*SUBFOLDERS, "work"):
            (folder / own).mkdir()
        try:
            command = await anyio.to_thread.run_sync(
                sandbox.wrap, [sandbox.shell[2], "-c", "test $$ -gt 1"], folder, cwd or folder / "work"
            )
            with opened(command) as (argv, files), anyio.fail_after(PROBE_TIME):
                done = await anyio.run_process(
                    argv,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    env={"PATH": search_path},
                    start_new_session=True,
                    pass_fds=files,
                )
        except TimeoutError:
            return f"no answer within {PROBE_TIME:.0f} s"
        except (OSError, AgentUnavailable) as error:
            return str(error)
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1].removeprefix("bwrap: ")[:300] if said else f"exit status {done.returncode}"
