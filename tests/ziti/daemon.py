"""A controller or router as a process that a test can stop, kill and start again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.namespace import Namespace

STOP_SECONDS = 10.0


class Daemon:
    """Does not outlive the thread that started it: so start it from the one that the tests run in."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, namespace: Namespace) -> None:
        self._command = command
        self._env = env
        self._log = log
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of what it has said."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def start(self) -> None:
        """Returns at once; `Network.ready` waits until it works."""
        if self.running:
            return
        setpriv = shutil.which("setpriv")  # the kernel kills it where pytest itself is killed
        guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with self._namespace.inside(), self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *self._command],
                env=self._env,
                cwd=self._log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Waits until it is gone."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """As `stop`, but by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
