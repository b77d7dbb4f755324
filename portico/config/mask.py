"""The form in which values are shown to people: as they are written, and secrets masked."""

from typing import Any

from pydantic import ByteSize, SecretStr

from .values import AgentVariable, Token, ZitiService

MASK = "********"


def masked(value: Any) -> str:
    """The text of a setting's value."""
    match value:
        case None | ():
            return "none"
        case dict():
            return ",".join(f"{name}={MASK}" for name in value) or "none"
        case tuple():
            return ",".join(masked(entry) for entry in value)
        case SecretStr():
            return MASK
        case Token():
            return f"{value.name}:{MASK}" + (":admin" if value.admin else "")
        case ZitiService():
            return value.name + (f"={value.principal}" if value.principal else "") + (":admin" if value.admin else "")
        case AgentVariable():
            return value.name + (f"={MASK}" if value.value else "")
        case ByteSize():
            return _size(value)
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case _:
            return str(value)


def _size(size: int) -> str:
    for unit, bytes_ in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size % bytes_ == 0:
            return f"{size // bytes_}{unit}"
    return str(size)
