"""`portico ziti enroll` as it is typed. Where a controller would have to answer, the library is a stand-in."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.support.edge_management import enrolment_token
from tests.support.enrolled import identity
from tests.support.typed import Typed

Library = Callable[..., None]

# both shapes enrol in the same way
SHAPES = {"0.6": "def load(path): pass", "1.x": "def load(path, timeout=0): pass"}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Gives the package `openziti` this body for its function `enroll`, for children of ours."""

    def write(body: str, shape: str = "0.6") -> None:
        folder = tmp_path / "lib" / "openziti"
        folder.mkdir(parents=True)
        (folder / "zitilib.py").touch()
        lines = ["import ctypes, os, time", "from . import zitilib", SHAPES[shape]]
        (folder / "__init__.py").write_text("\n".join([*lines, f"def enroll(jwt, key=None, cert=None): {body}\n"]))
        monkeypatch.syspath_prepend(folder.parent)

    return write


def token(home: Path, text: str | None = None) -> str:
    (home / "alice.jwt").write_text(text or enrolment_token())
    return "alice.jwt"


def enrol(typed: Typed, *arguments: str) -> tuple[int, str, str]:
    """Whatever became of it, no child and no draft is left."""
    done = typed("ziti", "enroll", *arguments)
    assert psutil.Process().children() == []
    assert [name for name in os.listdir() if name.startswith(".")] == []
    return done


@pytest.mark.parametrize("shape", SHAPES)
def test_the_identity_is_for_us_alone(library: Library, typed: Typed, home: Path, shape: str) -> None:
    expected = identity()
    library(f"assert jwt.startswith('eyJ'); os.umask(0); return {json.dumps(expected)!r}", shape)
    status, output, errors = enrol(typed, token(home), "--out", "alice.json")
    assert (status, errors) == (0, "")
    assert output == "alice.json is enrolled. The token in alice.jwt is used up.\n"
    assert json.loads((home / "alice.json").read_text()) == expected
    assert stat.S_IMODE((home / "alice.json").stat().st_mode) == 0o600


def test_what_is_there_is_overwritten_only_by_force(library: Library, typed: Typed, home: Path) -> None:
    library(f"return {json.dumps(identity())!r}")
    (home / "alice.json").write_text("precious")
    status, _, errors = enrol(typed, token(home), "--out", "alice.json")
    assert status == 1 and "alice.json is there already: --force overwrites it" in errors
    assert (home / "alice.json").read_text() == "precious"
    (home / "folder").mkdir()
    assert enrol(typed, token(home), "--out", "folder", "--force")[2] == "portico: folder is there already\n"
    assert enrol(typed, token(home), "--out", "alice.json", "--force")[0] == 0
    assert stat.S_IMODE((home / "alice.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise RuntimeError('JWT not accepted by controller')", "does not accept the token: it was used already"),
        ("raise RuntimeError('Ziti Controller is not available')", "the controller can't be reached"),
        ("raise RuntimeError('something new')", "it is not enrolled: Ziti's library says only `something new`"),
        ("ctypes.string_at(0)", r"Ziti's library crashed \(SIGSEGV\)"),
        ("os._exit(3)", r"ended by itself \(status 3\)"),
        ("time.sleep(60)", "enrolling took more than 0.5 seconds"),
        ("return '{}'", "what the controller gave is no identity: it is no enrolled identity"),
    ],
)
def test_what_goes_wrong_is_said_and_what_was_there_stays(
    library: Library, typed: Typed, home: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    if "sleep" in body:
        monkeypatch.setattr("portico.ziti.setup.enroll.ENROLL_SECONDS", 0.5)
    library(body)
    (home / "alice.json").write_text("precious")
    status, output, errors = enrol(typed, token(home), "--out", "alice.json", "--force")
    assert (status, output) == (1, "")
    assert re.fullmatch(f"portico: .*{words}.*\n", errors), errors
    assert (home / "alice.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("garbage", "is no enrolment token"),
        ("a.b.c", "is no enrolment token"),
        ("eyJ" + "x" * 70_000, "is no enrolment token"),
        (json.dumps(identity()), "is no enrolment token"),
        (enrolment_token(em="ca"), r"is for an enrolment of another kind \(ca\)"),
        (enrolment_token(expires=datetime(2020, 1, 2, 3, 4, tzinfo=UTC)), "expired on 2020-01-02 at 03:04 UTC"),
    ],
)
def test_what_no_controller_would_take_is_not_sent_to_one(
    library: Library, typed: Typed, home: Path, text: str, words: str
) -> None:
    library("os._exit(1)")
    status, _, errors = enrol(typed, token(home, text), "--out", "alice.json")
    assert status == 1 and re.search(words, errors), errors
    assert not (home / "alice.json").exists()


def test_a_token_is_not_used_up_for_a_file_that_can_t_be_written(library: Library, typed: Typed, home: Path) -> None:
    library("os._exit(1)")
    status, _, errors = enrol(typed, token(home), "--out", "missing/alice.json")
    assert (status, errors) == (1, "portico: missing/alice.json can't be written: No such file or directory\n")
    status, _, errors = enrol(typed, "none.jwt", "--out", "alice.json")
    assert (status, errors) == (1, "portico: none.jwt can't be read: No such file or directory\n")


@pytest.mark.skipif(find_spec("openziti") is None, reason="openziti is not installed")
def test_the_real_library_and_a_controller_that_is_away(
    typed: Typed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portico.ziti.setup.enroll.ENROLL_SECONDS", 2.0)  # 0.6.0 waits for ever
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        text = enrolment_token(iss=f"https://127.0.0.1:{closed.getsockname()[1]}")
        status, _, errors = enrol(typed, token(home, text), "--out", "alice.json")
    assert status == 1 and errors.startswith("portico: it is not enrolled: "), errors
    assert not (home / "alice.json").exists()
