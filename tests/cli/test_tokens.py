"""`portico token new` and `portico token hash`: what they print is what a server takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.server import PORTICO, environment, running_server
from tests.support.talk import talk


def token(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [*PORTICO, "token", *arguments]
    env = environment(folder)
    return subprocess.run(
        command, env=env, cwd=folder, input=given, capture_output=True, text=True, timeout=HANG_SECONDS
    )


@pytest.mark.anyio
async def test_a_new_token_and_a_hashed_one_let_their_owners_in(tmp_path: Path) -> None:
    made = token(tmp_path, "new", "carol", "--admin")
    secret = made.stderr.strip().rpartition(" ")[2]
    assert len(secret) == 43 and secret not in made.stdout
    plain = f"# people\nalice:plain-secret  # on holiday\n\n{made.stdout}"
    hashed = token(tmp_path, "hash", given=plain)
    assert "plain-secret" not in hashed.stdout and hashed.stdout.endswith(made.stdout)
    lines = hashed.stdout.splitlines()
    assert lines[0] == "# people" and lines[1].endswith(" # on holiday") and lines[2] == ""
    file = tmp_path / "tokens"
    file.write_text(hashed.stdout)
    async with running_server(tmp_path, "--driver", "echo", PORTICO_AUTH_TOKENS=f"@{file}") as server:
        async with talk(server, "plain-secret") as alice, talk(server, secret) as carol:
            assert (await alice.open())["owner"] == "alice"
            assert len((await carol.http.get("/sessions")).json()["sessions"]) == 1
        digest = lines[1].split(":")[1].split()[0]
        for stolen in (digest, digest.removeprefix("sha256$")):
            async with talk(server, stolen) as thief:
                assert (await thief.http.get("/sessions")).status_code == 401


def test_what_is_no_token_is_refused_without_being_repeated(tmp_path: Path) -> None:
    for done in (token(tmp_path, "new", "a b"), token(tmp_path, "hash", given="alice:my secret\n")):
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "my secret" not in done.stderr
