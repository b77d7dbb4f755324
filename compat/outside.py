"""Programs from outside: those of this machine, else Debian's or PyPI's, unpacked into a folder and not installed.

Nothing of the machine is changed: no package is registered, and no service is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 90.0
"""For one download, with all that it depends on."""
_PLACES = ("usr/sbin", "usr/bin", "envoy/_bin")
"""The places of programs: in Debian's packages, and in that of PyPI which has Envoy."""
_APT = ("-qq", "-o", "Debug::NoLocking=true", "-o", "APT::Sandbox::User=root")
_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Missing(Exception):
    """A program can't be had here; the message names it and says why."""


def debian(program: str, packages: list[str], folder: Path) -> Path:
    """Return the folder below which ``program`` lies in ``usr/sbin`` or ``usr/bin``: ``/``, or one below ``folder``.

    Raises `Missing`.
    """
    if found := shutil.which(program, path=_SYSTEM):
        return Path(found).parents[2]
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing(f"there is no program {program}, and no apt-get that could bring it")
    root, archives = folder / "root", folder / "archives"
    (archives / "partial").mkdir(parents=True)
    apt = ["apt-get", *_APT, "-o", f"Dir::Cache::archives={archives}"]
    get = [*apt, "install", "--download-only", "--yes", "--no-install-recommends", *packages]
    if _run(get).returncode != 0:
        # The lists of packages may be missing or old; a folder of our own has new ones.
        lists = folder.parent / "lists"
        fresh = ["-o", f"Dir::State::lists={lists}"]
        if not lists.exists():
            (lists / "partial").mkdir(parents=True)
            _run([*apt, *fresh, "update"])
        got = _run([*get, *fresh])
        if got.returncode != 0:
            raise Missing(f"{packages[0]} could not be downloaded: {_last_words(got)}")
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True, capture_output=True, timeout=SECONDS)
    if shutil.which(program, path=_search(root)) is None:
        raise Missing(f"there is no {program} in Debian's package {packages[0]}")
    return root


def wheel(requirement: str, folder: Path) -> Path:
    """Return ``folder`` with what PyPI has for ``requirement`` (``name==version``). Raises `Missing`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    got = _run([*pip, "--only-binary", ":all:", "--target", str(folder), requirement])
    if got.returncode != 0:
        raise Missing(f"{requirement} could not be installed: {_last_words(got)}")
    return folder


def program_of(root: Path, program: str) -> str:
    """Return the path of a program below ``root``."""
    found = shutil.which(program, path=_search(root))
    if found is None:
        raise Missing(f"there is no program {program}")
    return found


def environment_of(root: Path) -> dict[str, str]:
    """Return the variables with which programs below ``root`` find their libraries."""
    path = {"PATH": f"{_search(root)}:{_SYSTEM}"}
    libraries = [str(each) for each in root.glob("usr/lib/*-linux-gnu*")]
    return path if root == Path("/") else {**path, "LD_LIBRARY_PATH": ":".join(libraries)}


def _search(root: Path) -> str:
    return ":".join(str(root / each) for each in _PLACES)


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{argv[-1]} could not be downloaded: it took more than {SECONDS:g} s") from None


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["it has not said why"])[-1]
