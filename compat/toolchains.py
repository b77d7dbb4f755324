"""Builds the programs of a language in a folder: all of them at once, with one installer, one compiler."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from benchmarks.running import Finished, Interrupts, run
from compat.snippets import Snippet

INSTALL_SECONDS = 120.0
BUILD_SECONDS = 600.0

Programs = Mapping[str, Sequence[str]]
"""The command line of each, by the name of the snippet."""


class Unavailable(Exception):
    """A toolchain is not here, can't get its packages, or takes too long. The message says which."""


class BuildFailed(Exception):
    """A program does not compile. The message is the compiler's."""


def build(language: str, snippets: Sequence[Snippet], run: str = "") -> Programs:
    """Build all ``snippets`` of a language in the user's cache, which keeps what was installed; processes take turns.

    Raises `Unavailable` and `BuildFailed`. Those that are of the same ``run`` don't try again to install.
    """
    folder = user_cache_path("portico-clients") / language
    folder.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS[language]:
        if shutil.which(program) is None:
            raise Unavailable(f"there is no program {program}, which the clients in {language} need")
    with _turn(folder), _tried(folder, run):
        _write(folder / _SOURCES.get(language, ""), snippets)
        packages = sorted({package for snippet in snippets for package in snippet.packages})
        return _BUILDERS[language](folder, packages, snippets)


def _write(folder: Path, snippets: Sequence[Snippet]) -> None:
    """Write the files that have changed, so that a compiler need not begin anew."""
    paths = {folder / snippet.file: snippet.text for snippet in snippets}
    for path in folder.glob(f"*{Path(snippets[0].file).suffix}"):
        if path not in paths:
            path.unlink()
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _bash(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    return {snippet.name: ["bash", str(folder / snippet.file)] for snippet in snippets}


def _python(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    python = folder / "venv" / "bin" / "python"
    with _once(folder, [*packages, sys.version]) as needed:
        if needed:
            venv.create(folder / "venv", clear=True, with_pip=True)
            _install([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], folder)
    return {snippet.name: [str(python), str(folder / snippet.file)] for snippet in snippets}


def _node(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    with _once(folder, packages) as needed:
        if needed:
            shutil.rmtree(folder / "node_modules", ignore_errors=True)
            (folder / "package.json").write_text('{"private": true}')
            options = (
                "--silent",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
                "--ignore-scripts",
                "--fetch-retries=1",
            )
            _install(["npm", "install", *options, *packages], folder)
    return {snippet.name: ["node", str(folder / snippet.file)] for snippet in snippets}


def _go(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    with _once(folder, packages) as needed:
        if needed:
            (folder / "go.sum").unlink(missing_ok=True)
            (folder / "go.mod").write_text("module clients\n")
            _install(["go", "get", *packages], folder)
    _compile(["go", "build", "-o", "bin/", *(f"./{Path(snippet.file).parent}" for snippet in snippets)], folder)
    return {snippet.name: [str(folder / "bin" / snippet.name)] for snippet in snippets}


def _java(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    # A module for each, as they need different versions of the same library.
    with _once(folder, packages) as needed:
        if needed:
            modules = "".join(f"<module>{snippet.name}</module>" for snippet in snippets)
            (folder / "pom.xml").write_text(_pom("clients", f"<packaging>pom</packaging><modules>{modules}</modules>"))
            for snippet in snippets:
                module = folder / snippet.name
                shutil.rmtree(module, ignore_errors=True)
                module.mkdir()
                dependencies = "".join(map(_dependency, snippet.packages))
                (module / "pom.xml").write_text(_pom(snippet.name, f"<dependencies>{dependencies}</dependencies>"))
            copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
            _install(["mvn", "--quiet", "--batch-mode", copy, "-DoutputDirectory=lib"], folder)
    programs = {}
    for snippet in snippets:
        source, classes, name = folder / snippet.file, folder / snippet.name / "classes", Path(snippet.file).stem
        path, made = f"{folder / snippet.name / 'lib'}/*", classes / f"{name}.class"
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            _compile(["javac", "-proc:none", "-cp", path, "-d", str(classes), str(source)], folder)
        programs[snippet.name] = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}{os.pathsep}{path}", name]
    return programs


def _pom(name: str, rest: str) -> str:
    project = f"<groupId>x</groupId><artifactId>{name}</artifactId><version>0</version>"
    return f"<project><modelVersion>4.0.0</modelVersion>{project}{rest}</project>"


def _dependency(package: str) -> str:
    members = zip(("groupId", "artifactId", "version"), package.split(":"), strict=True)
    return f"<dependency>{''.join(f'<{member}>{value}</{member}>' for member, value in members)}</dependency>"


def _rust(folder: Path, packages: Sequence[str], snippets: Sequence[Snippet]) -> Programs:
    with _once(folder, packages) as needed:
        if needed:
            head = '[package]\nname = "clients"\nversion = "0.0.0"\nedition = "2021"\n'
            profile = "[profile.dev]\ndebug = false\nincremental = false\n"
            (folder / "Cargo.toml").write_text(f"{head}{profile}[dependencies]\n" + "\n".join(packages) + "\n")
            _install(["cargo", "fetch", "--quiet"], folder)
    _compile(["cargo", "build", "--quiet", "--offline"], folder)
    return {snippet.name: [str(folder / "target" / "debug" / Path(snippet.file).stem)] for snippet in snippets}


_SOURCES = {"rust": "src/bin"}
_BUILDERS: dict[str, Callable[[Path, Sequence[str], Sequence[Snippet]], Programs]] = {
    "bash": _bash,
    "python": _python,
    "js": _node,
    "go": _go,
    "java": _java,
    "rust": _rust,
}
PROGRAMS = {
    "bash": ("bash", "curl"),
    "python": (),
    "js": ("node", "npm"),
    "go": ("go",),
    "java": ("java", "javac", "mvn"),
    "rust": ("cargo",),
}
"""Those that each language needs."""


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _tried(folder: Path, run: str) -> Iterator[None]:
    """Note why the packages could not be had in this run."""
    note = folder / "unavailable.json"
    if run and note.exists() and (told := json.loads(note.read_text()))["run"] == run:
        raise Unavailable(told["reason"])
    try:
        yield
    except Unavailable as error:
        note.write_text(json.dumps({"run": run, "reason": str(error)}))
        raise


@contextmanager
def _once(folder: Path, packages: Sequence[str]) -> Iterator[bool]:
    """Say whether the packages are still to be installed; note them if that goes well."""
    note, wanted = folder / "installed.json", json.dumps(packages)
    needed = not note.exists() or note.read_text() != wanted
    yield needed
    if needed:
        note.write_text(wanted)


def _install(argv: Sequence[str], folder: Path) -> None:
    done = _run(argv, folder, INSTALL_SECONDS)
    name = Path(argv[0]).name
    if done.status is None:
        raise Unavailable(f"{name} could not get its packages in {INSTALL_SECONDS:g} s")
    if done.status != 0:
        said = (done.complaints.strip() or done.output.strip() or "it does not say why").splitlines()
        raise Unavailable(f"{name} could not get its packages: {said[-1]}")


def _compile(argv: Sequence[str], folder: Path) -> None:
    done = _run(argv, folder, BUILD_SECONDS)
    if done.status is None:
        raise Unavailable(f"{argv[0]} was not done in {BUILD_SECONDS:g} s")
    if done.status != 0:
        raise BuildFailed(f"{' '.join(argv)}\n{done.output}{done.complaints}")


def _run(argv: Sequence[str], folder: Path, seconds: float) -> Finished:
    return run(argv, cwd=folder, environment=os.environ, told=Interrupts(), seconds=seconds)
