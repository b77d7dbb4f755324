"""A small server that starts an agent, says so, and waits to be killed.

`python doomed_server.py LOOP MECHANISM FOLDER COMMAND...`
"""

import os
import sys
from pathlib import Path

import anyio

from portico.plugins.claude_code.process import CliProcess
from tests.support.agents import contained


async def main(mechanism: str, folder: Path, command: list[str]) -> None:
    containment = await contained(mechanism)
    env = {"PATH": os.environ["PATH"]}
    process = await CliProcess.start(command, env=env, cwd=folder, folder=folder, containment=containment)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.run)
            print(await process.receive(), flush=True)
            await anyio.sleep_forever()
    finally:
        await process.close()


if __name__ == "__main__":
    loop, mechanism, folder, *command = sys.argv[1:]
    anyio.run(main, mechanism, Path(folder), command, backend_options={"use_uvloop": loop == "uvloop"})
