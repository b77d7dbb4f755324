"""`portico plugin new` writes packages that work at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from portico.cli.plugin_commands import PLUGIN_KINDS
from portico.core.errors import InvalidRequest
from portico.plugins.scaffold import KINDS, write_plugin
from tests.support.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
LONG_NAME = "a-name-as-long-as-a-name-may-be2"


def run(folder: Path, *argv: str, path: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": f"{ROOT}{path and os.pathsep}{path}"}
    done = subprocess.run(
        [sys.executable, "-m", *argv],
        capture_output=True,
        text=True,
        env=env,
        cwd=folder,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def new(folder: Path, name: str, kind: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(folder, "portico", "plugin", "new", name, "--kind", kind, *options, check=check)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_command_offers_all_kinds() -> None:
    assert set(PLUGIN_KINDS) == set(KINDS)


# The suite of transports waits a lot, so that only its heart is tried each time.
QUICKLY = "it_has_a_name or it_says_where or cut or drain"


def lines_of_plugins(folder: Path, *modules: str) -> dict[str, str]:
    """Say what `portico plugins` tells of these modules."""
    path = os.pathsep.join(str(folder / module.replace("_", "-")) for module in modules)
    listed = run(folder, "portico", "plugins", "--plugins", ",".join(modules), path=path).stdout
    return {line.split()[0]: line for line in listed.splitlines() if line.startswith(modules)}


@pytest.mark.parametrize("only", [QUICKLY, pytest.param("", marks=pytest.mark.long)], ids=["quickly", "whole"])
def test_a_new_plugin_passes_its_tests_and_is_loaded(tmp_path: Path, only: str) -> None:
    said = new(tmp_path, "my-own", "transport").stdout
    package = tmp_path / "portico-my-own"
    assert files(package) == ["README.md", "portico_my_own.py", "pyproject.toml", "tests/test_conformance.py"]
    assert f"cd {package.name}\n" in said and "pytest\n" in said and "portico serve" in said
    done = run(package, "pytest", "-q", "-p", "no:cacheprovider", "-k", only, path=str(package))
    assert " passed" in done.stdout and " failed" not in done.stdout
    assert "transport my-own" in lines_of_plugins(tmp_path, "portico_my_own")["portico_my_own"]
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["name"] == "portico-my-own" and project["dependencies"] == ["portico-server>=0.2"]
    assert project["entry-points"]["portico"] == {"my-own": "portico_my_own"}


def test_new_plugins_of_the_other_kinds_pass_their_tests_and_are_loaded(tmp_path: Path) -> None:
    kinds = [kind for kind in KINDS if kind != "transport"]
    packages = [write_plugin(f"my-{kind}", kind, tmp_path).folder for kind in kinds]
    for kind, package in zip(kinds, packages, strict=True):
        module = f"portico_my_{kind}.py"
        assert files(package) == ["README.md", module, "pyproject.toml", "tests/test_conformance.py"]
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        assert project["name"] == package.name and project["dependencies"] == ["portico-server>=0.2"]
        assert project["entry-points"]["portico"] == {f"my-{kind}": f"portico_my_{kind}"}
    argv = ["-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=.", "-rA", *map(str, packages)]
    done = run(tmp_path, "pytest", *argv, path=os.pathsep.join(map(str, packages)))
    assert " failed" not in done.stdout
    assert all(f"PASSED {package.name}/tests/test_conformance.py" in done.stdout for package in packages)
    lines = lines_of_plugins(tmp_path, *(f"portico_my_{kind}" for kind in kinds))
    assert all(f"{kind} my-{kind}" in lines[f"portico_my_{kind}"] for kind in kinds)


@pytest.mark.parametrize("name", ["own", LONG_NAME])
def test_new_plugins_are_clean(tmp_path: Path, name: str) -> None:
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        write_plugin(name, kind, tmp_path / kind)
    left = re.compile(r"@\w+@")
    assert [path for path in tmp_path.rglob("*.*") if path.is_file() and left.search(path.read_text())] == []
    run(tmp_path, "ruff", "check", "--no-cache", ".")
    if name != LONG_NAME:
        run(tmp_path, "ruff", "check", "--no-cache", "--select", "E,F,I,UP,B,SIM,RUF,ASYNC", ".")
        run(tmp_path, "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.long
def test_new_plugins_have_strict_types(tmp_path: Path) -> None:
    modules = []
    for kind in KINDS:
        write_plugin(f"my-{kind}", kind, tmp_path)
        package = tmp_path / f"portico-my-{kind}"
        tests = (package / "tests" / "test_conformance.py").rename(package / f"test_{kind}.py")
        modules += [str(next(package.glob("portico_*.py"))), str(tests)]
    path = os.pathsep.join(str(package) for package in tmp_path.iterdir() if package.is_dir())
    env = {"PATH": os.environ["PATH"], "MYPYPATH": f"{ROOT}{os.pathsep}{path}"}
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *modules]
    done = subprocess.run(
        argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stdout


def test_path_says_where_and_the_prefix_may_be_given(tmp_path: Path) -> None:
    said = new(tmp_path, "portico-own", "observer", "--path", "some where/else").stdout
    assert (tmp_path / "some where" / "else" / "portico-own" / "portico_own.py").exists()
    assert "cd 'some where/else/portico-own'\n" in said


def test_a_name_that_will_not_do_is_refused(tmp_path: Path) -> None:
    for name in ("", "Own", "1own", "own_", "own-", "-own", "o--n", "../own", "own.x", "ö", "x" * 33):
        with pytest.raises(InvalidRequest, match=re.escape(f"{name!r} is no name for a plugin, which is: letters")):
            write_plugin(name, "store", tmp_path)
    done = run(tmp_path, "portico", "plugin", "new", "--kind", "store", "--", "-own", check=False)
    assert done.returncode == 2 and "'-own' is no name for a plugin, which is: letters a to z" in done.stderr
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "name"), [("store", "sqlite"), ("transport", "http"), ("driver", "echo"), ("routes", "server")]
)
def test_a_name_that_is_taken_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    done = new(tmp_path, name, kind, check=False)
    assert done.returncode == 2 and f"the name {name!r} is taken already" in done.stderr
    assert files(tmp_path) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    target = tmp_path / "portico-own"
    target.mkdir()
    new(tmp_path, "own", "store")  # into an empty folder
    (target / "portico_own.py").write_text("mine")
    done = new(tmp_path, "own", "driver", check=False)
    assert done.returncode == 2 and "portico-own is there already, and not empty" in done.stderr
    assert (target / "portico_own.py").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = new(tmp_path, "own", "store", "--path", "file", check=False)
    assert done.returncode == 1 and "it can't be written" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_kind_lists_those_there_are(tmp_path: Path) -> None:
    done = new(tmp_path, "own", "shop", check=False)
    assert done.returncode == 2 and all(kind in done.stderr for kind in KINDS)


@pytest.mark.long
def test_the_wheel_has_the_templates_and_the_types(tmp_path: Path) -> None:
    argv = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    run(tmp_path, *argv)
    (wheel,) = tmp_path.glob("portico_server-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    templates = (ROOT / "portico" / "plugins" / "templates").glob("*.tmpl")
    assert {f"portico/plugins/templates/{path.name}" for path in templates} | {"portico/py.typed"} <= names
