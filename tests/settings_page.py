"""Writes docs/settings.md from the settings themselves: `python -m tests.settings_page > docs/settings.md`."""

from __future__ import annotations

from portico.config.mask import masked
from portico.config.origins import BARE_NAMES
from portico.config.settings import Settings, accepts, facts

HEAD = """# Settings

Every setting is an option of `portico serve` (`--max-sessions 20`) and an environment variable with the prefix
`PORTICO_` (`PORTICO_MAX_SESSIONS=20`), which may also stand in a file `.env` in the working directory. These have a
bare name too: {bare}.

An option beats a variable, a variable with the prefix beats the bare one, and the environment beats `.env`. A wrong
value stops the start with one line for each mistake (exit status 2). `portico config` shows what is in force, and where
each value comes from.

At SIGHUP a server reads its settings again, `.env` and files included. These act at once: {reloadable}. What else has
changed needs a restart, and the log says so. A wrong value is logged, and nothing changes; a certificate that is no
good is logged, and the old one stays. The audit log and the keys of JSON Web Tokens ([jwt](jwt.md)) are read anew.

| setting | default | meaning | accepted |
|---|---|---|---|
"""


def page() -> str:
    bare = ", ".join(f"`{name.upper()}`" for name in sorted(BARE_NAMES & Settings.model_fields.keys()))
    rows = [
        f"| `{name}` | {_default(name)} | {field.description} | {accepts(name)} |\n"
        for name, field in Settings.model_fields.items()
    ]
    reloaded = ", ".join(f"`{name}`" for name in Settings.model_fields if facts(name).reloadable)
    return HEAD.format(bare=bare, reloadable=reloaded) + "".join(rows)


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    told_in_words = field.is_required() or field.default is None or "Default:" in str(field.description)
    return "" if told_in_words else f"`{masked(field.default)}`"


if __name__ == "__main__":
    print(page(), end="")
