"""The schemas of the OpenAPI document, and what is not as they say."""

from __future__ import annotations

from typing import Any

from jsonschema_rs import Draft202012Validator

Json = dict[str, Any]


def strict(document: Json, name: str) -> Draft202012Validator:
    """A validator that, unlike the document, takes no unknown members where the document names some."""

    def closed(node: Any) -> Any:
        if isinstance(node, list):
            return [closed(each) for each in node]
        if not isinstance(node, dict):
            return node
        made = {key: closed(value) for key, value in node.items()}
        return {**made, "additionalProperties": False} if "properties" in made else made

    components = closed(document["components"])
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components})


def flaws(validator: Draft202012Validator, value: Any) -> list[str]:
    return [error.message for error in validator.iter_errors(value)]
