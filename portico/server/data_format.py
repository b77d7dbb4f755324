"""The format of the data folder as a whole: a number in its file ``format``."""

from __future__ import annotations

import os
from pathlib import Path

from portico.core.errors import Unavailable

FORMAT = 3
"""The format number of this version. A change that an older version would misread takes the next number: a new form of
a file, or a migration of the database. tests/fixtures/data_folders keeps a folder of each number."""

_UNNUMBERED = 1
"""The format of a folder without the file: the first versions wrote none."""
_LONGEST = 20


def check_format(data_dir: Path) -> None:
    """Raise `Unavailable` (``data_dir_too_new``, ``data_dir_unusable``) for a folder that this version can't use.

    Nothing is written. Raises OSError if the file can't be read.
    """
    found = _read(data_dir / "format")
    if found > FORMAT:
        detail = (
            f"the data folder {data_dir} was written by a newer version (format {found}; this one knows {FORMAT});"
            " install that version again, or choose another folder with PORTICO_DATA_DIR"
        )
        raise Unavailable(detail, code="data_dir_too_new")


def note_format(data_dir: Path) -> None:
    """Write the number of this version, before anything is written in its form. Raises OSError."""
    path = data_dir / "format"
    if path.exists() and _read(path) == FORMAT:
        return
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{FORMAT}\n")
    draft.replace(path)


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return _UNNUMBERED
    if not (text.isascii() and text.isdecimal() and int(text)):
        detail = f"the file {path} holds no format number; bring it back from a copy of the data folder"
        raise Unavailable(detail, code="data_dir_unusable")
    return int(text)
