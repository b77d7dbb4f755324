from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portico.ziti.identity import IdentityError, check_identity
from tests.support.dark import enrolled

Change = Callable[[dict[str, Any]], object]


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def changed(path: Path, change: Change) -> Path:
    identity = json.loads(enrolled())
    change(identity)
    return written(path, json.dumps(identity))


def refusal(path: Path) -> str:
    with pytest.raises(IdentityError) as failure:
        check_identity(path)
    assert str(path) in str(failure.value) and "\n" not in str(failure.value)
    return str(failure.value)


def test_an_enrolled_one_is_fine(tmp_path: Path) -> None:
    check_identity(written(tmp_path / "id.json", enrolled()))


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[]", '"x"', '{"id": 1}', "[" * 100_000, "\x00\xff"])
def test_what_is_none_at_all(tmp_path: Path, text: str) -> None:
    assert "it is no enrolled identity" in refusal(written(tmp_path / "id.json", text))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.pop("ztAPI"), "does not name its controller"),
        (lambda i: i.update(ztAPI="nonsense"), "does not name its controller"),
        (lambda i: i["id"].pop("cert"), "it has no certificate"),
        (lambda i: i["id"].pop("key"), "it has no key"),
        (lambda i: i["id"].update(key=5), "it has no key"),
        (lambda i: i["id"].update(cert="pem:nothing"), "its certificate (id.cert) is not valid"),
        (lambda i: i["id"].update(key="pem:nothing"), "its key (id.key) is not valid"),
        (lambda i: i["id"].update(cert="file:///no/such/file"), "/no/such/file, which can't be read"),
        (lambda i: i["id"].update(key=json.loads(enrolled(1))["id"]["key"]), "do not belong together"),
    ],
)
def test_one_that_lacks_something(tmp_path: Path, change: Change, words: str) -> None:
    assert words in refusal(changed(tmp_path / "id.json", change))


def test_one_that_has_expired(tmp_path: Path) -> None:
    words = refusal(written(tmp_path / "id.json", enrolled(days=-2)))
    assert re.search(r"its certificate has expired \(20\d\d-\d\d-\d\d \d\d:\d\d UTC\)", words)


def test_a_file_that_is_not_there_or_none(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "id.json")
    assert "it is not a file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_key_that_others_get_at(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "id.json", enrolled(), mode)
    assert f"(mode {mode:04o}): chmod 600 {path}" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_one_that_we_may_not_read(tmp_path: Path) -> None:
    assert "it can't be read: Permission denied" in refusal(written(tmp_path / "id.json", enrolled(), 0o000))


def test_a_key_in_a_file_of_its_own(tmp_path: Path) -> None:
    identity = json.loads(enrolled())
    key = written(tmp_path / "key.pem", identity["id"]["key"].removeprefix("pem:"))
    check_identity(changed(tmp_path / "id.json", lambda i: i["id"].update(key=f"file://{key}")))
    key.chmod(0o644)
    with pytest.raises(IdentityError, match=f"chmod 600 {key}"):
        check_identity(tmp_path / "id.json")


def test_a_key_in_a_token_is_left_to_the_library(tmp_path: Path) -> None:
    check_identity(changed(tmp_path / "id.json", lambda i: i["id"].update(key="pkcs11:///usr/lib/token.so?id=1")))
