"""Checks of long texts, done piece by piece, so that nobody has to wait for the end of one."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

LONG = 64 * 1024
"""Characters. Texts up to this length are checked at once."""

Steps: TypeAlias = Iterator[None]
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()


@dataclass(slots=True)
class Postponed:
    """The checks that a validation leaves for later; pass it as the context of the validation."""

    looks: list[tuple[str, Steps]] = field(default_factory=list)


def look(text: str, steps: Callable[[str], Steps], info: ValidationInfo) -> str:
    """Return ``text`` if ``steps`` find nothing wrong. Raises as they do, unless the check is `Postponed`."""
    if isinstance(info.context, Postponed) and len(text) > LONG:
        info.context.looks.append((text, steps(text)))
    else:
        for _ in steps(text):
            pass
    return text


def not_blank(text: str) -> Steps:
    for start in range(0, len(text), LONG):
        if not text[start : start + LONG].isspace():
            return
        yield
    raise PydanticCustomError("blank", "must not be blank")


def base64(text: str) -> Steps:
    if not text:
        raise PydanticCustomError("base64", "must not be empty")
    good = len(text) % 4 == 0 and text.isascii()
    for start in range(0, len(text) if good else 0, LONG):
        piece = text[start : start + LONG].encode()
        if start + LONG >= len(text):
            piece = piece[:-2] + piece[-2:].rstrip(b"=")
        if piece.translate(None, _BASE64):
            good = False
            break
        yield
    if not good:
        raise PydanticCustomError("base64", "must be valid base64")


def pdf(text: str) -> Steps:
    if not text.startswith("JVBERi0"):  # %PDF-
        raise PydanticCustomError("pdf", "must be the base64 of a PDF")
    yield from base64(text)


def place_of(text: str, value: Any) -> list[int | str]:
    """Return the path of the very object ``text`` in ``value``, which is JSON; empty if it is not in there."""
    places: list[tuple[list[int | str], Any]] = [([], value)]
    while places:
        place, value = places.pop()
        if value is text:
            return place
        if isinstance(value, dict):
            places += [([*place, name], member) for name, member in value.items()]
        elif isinstance(value, list):
            places += [([*place, index], member) for index, member in enumerate(value)]
    return []
