"""Writes the reference of the command line from its commands: `python -m tests.cli_page > docs/reference/cli.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from portico.cli.commands import commands
from portico.cli.with_settings import WithSettings
from portico.config.settings import Settings

HEAD = """# Command line

`portico COMMAND --help` shows the same in a terminal, and the commands of plugins too. The exit status is 0 for
success, 1 for failure, 2 for wrong usage and 130 for Ctrl-C; `serve` and `demo`, which Ctrl-C stops in order, exit with
0. Some commands take each [setting](../settings.md) as an option: their tables say "every setting". In a checkout the
program is `.venv/bin/portico`.

The client commands find a server that `portico serve` has started on this machine. For any other one, the demo
included, give `--server` and `--token`. They use the same HTTP interface as any client; `portico sessions` prints what
this does:

```sh
curl -sS -H "Authorization: Bearer $TOKEN" $API/sessions
```

"""


def page() -> str:
    """Make the whole page."""
    context = click.Context(commands, info_name="portico")
    return HEAD + "\n".join(_sections(commands, context))


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield _section(command, below)
            yield from _sections(command, below)
        else:
            yield _section(command, below)


def _section(command: click.Command, context: click.Context) -> str:
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    usage = " ".join([context.command_path, "[OPTIONS]", *(each.make_metavar(context) for each in arguments)])
    lines = [f"## {context.command_path}", "", "```text", usage, "```", "", _text(command.help), ""]
    rows = [f"| `{_text(_names(each, context))}` | {_text(each.help)} |" for each in options]
    if isinstance(command, WithSettings):
        rows.append(f"| every setting | one of {len(Settings.model_fields)} [settings](../settings.md) |")
    if rows:
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _names(option: click.Option, context: click.Context) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.make_metavar(context)}"


def _text(text: Any) -> str:
    return inspect.cleandoc(text or "").replace("\b\n", "").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
