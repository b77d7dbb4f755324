"""The check of a JSON Schema that a client sends: what an agent returns has to fit it."""

from __future__ import annotations

from typing import Any

from jsonschema_rs import Draft7Validator
from pydantic_core import PydanticCustomError

DRAFT = "http://json-schema.org/draft-07/schema"

OUTPUT_SCHEMA: dict[str, Any] = {
    "properties": {"type": {"const": "object"}, "$schema": {"enum": [DRAFT, f"{DRAFT}#"]}},
    "required": ["type"],
}
"""The part of the check that a JSON Schema can tell."""

# The library has this schema itself: nothing is fetched, neither for it nor for references in what it checks.
_SCHEMAS = Draft7Validator({"$ref": f"{DRAFT}#"})


def output_schema(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value`` if it is a JSON Schema (draft 7) of an object. References in it are not followed."""
    if value.get("type") != "object":
        raise PydanticCustomError("output_schema", 'must be a JSON Schema of the type "object"')
    if value.get("$schema", DRAFT) not in (DRAFT, f"{DRAFT}#"):
        raise PydanticCustomError("output_schema", "must be a JSON Schema of draft 7: leave out $schema")
    try:
        mistake = next(_SCHEMAS.iter_errors(value), None)
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "must not hold half of a surrogate pair") from None
    if mistake is not None:
        place = "/".join(map(str, mistake.instance_path))
        context = {"mistake": f"{place}: {mistake.message}"[:500]}
        raise PydanticCustomError("output_schema", "must be a JSON Schema: {mistake}", context)
    return value
