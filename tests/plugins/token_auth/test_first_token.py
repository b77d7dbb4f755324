import os
import subprocess
import sys
from pathlib import Path

import pytest

from portico.core.errors import Unavailable
from portico.plugins.token_auth.first_token import first_token, read_token


def test_the_token_survives_and_is_the_owners_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        token = first_token(tmp_path / "data")
    finally:
        os.umask(umask)
    assert len(token) >= 43
    assert first_token(tmp_path / "data") == token == read_token(tmp_path / "data")
    assert (tmp_path / "data" / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path / "data") == ["token"]


def test_two_data_folders_have_two_tokens(tmp_path: Path) -> None:
    assert first_token(tmp_path / "a") != first_token(tmp_path / "b")


def test_starts_at_once_end_up_with_one_token(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from portico.plugins.token_auth.first_token import first_token;"
        "print('ready', flush=True); sys.stdin.readline(); print(first_token(pathlib.Path(sys.argv[1])))"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("\n")
        start.stdin.flush()
    tokens = {start.communicate()[0] for start in starts}
    assert tokens == {read_token(tmp_path) + "\n"}
    assert os.listdir(tmp_path) == ["token"]


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"two words here, no token", b"\xff" * 40, b"x" * 600])
def test_a_spoilt_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    for use in (first_token, read_token):
        with pytest.raises(Unavailable) as caught:
            use(tmp_path)
        assert caught.value.code == "token_file"
        assert str(tmp_path / "token") in caught.value.detail
    assert (tmp_path / "token").read_bytes() == content


def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(Unavailable, match="cannot read the token file"):
        first_token(tmp_path)


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="token file"):
        first_token(tmp_path / "file" / "data")


def test_asking_for_a_token_that_nobody_made_makes_none(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no token file"):
        read_token(tmp_path)
    assert os.listdir(tmp_path) == []
