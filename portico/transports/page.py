"""The OpenAPI document as one page of HTML: no script, nothing from elsewhere, readable on a phone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 56rem; padding: 1rem }
h1, h2, h3 { line-height: 1.2 }
code, pre { font: 0.9em/1.4 ui-monospace, monospace; overflow-wrap: anywhere }
details { border: 1px solid #8886; border-radius: 6px; margin: .5rem 0; padding: .4rem .7rem }
summary { cursor: pointer }
summary > code { font-weight: bold }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { border-top: 1px solid #8884; padding: .25rem .6rem .25rem 0; text-align: left; vertical-align: top }
ul { padding-left: 1.2rem }
.note { opacity: .75 }
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""It allows the page's own style and an empty icon (or browsers would request one): nothing else is loaded or run."""

_SCHEMAS = "#/components/schemas/"

Json = Mapping[str, Any]


def page(document: Json) -> str:
    """Return the page for an OpenAPI document, as `portico.transports.openapi` makes it."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    operations = "".join(
        _operation(path, method, known)
        for path, methods in document["paths"].items()
        for method, known in methods.items()
    )
    mount = document["servers"][0]["url"]
    below = "" if mount == "/" else f"<p>All paths lie below <code>{escape(mount)}</code>.</p>"
    schemas = "".join(_component(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_text(info['description'])}"
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{below}"
        f"<h2>Operations</h2>{operations}<h2>Schemas</h2>{schemas}</body></html>\n"
    )


def _operation(path: str, method: str, known: Json) -> str:
    open_to_all = known.get("security") == []
    note = ' <span class="note">(needs no credentials)</span>' if open_to_all else ""
    return (
        f'<details id="{escape(known["operationId"])}"><summary><code>{escape(method.upper())} {escape(path)}</code> '
        f"{_inline(known['summary'])}{note}</summary>{_text(known.get('description', ''))}"
        f"{_parameters(known.get('parameters', ()))}{_body(known.get('requestBody'))}"
        f"<h3>Answers</h3><table>{''.join(_responses(known['responses']))}</table></details>"
    )


def _parameters(parameters: Any) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{escape(each['in'])}{_needed(each['required'])}</td>"
        f"<td>{_type(each['schema'])}</td><td>{_inline(each.get('description', ''))}</td></tr>"
        for each in parameters
    )
    return f"<h3>Parameters</h3><table>{rows}</table>" if rows else ""


def _body(body: Json | None) -> str:
    if body is None:
        return ""
    text = _text(body.get("description", ""))
    return f"<h3>Body{_needed(body['required'])}</h3>{text}" + "".join(_contents(body["content"]))


def _responses(responses: Json) -> Iterator[str]:
    for status, response in responses.items():
        headers = "".join(
            f"<p><code>{escape(name)}</code>: {_inline(header['description'])}</p>"
            for name, header in response.get("headers", {}).items()
        )
        content = "".join(_contents(response.get("content", {})))
        text = _text(response["description"])
        yield f"<tr><td><code>{escape(status)}</code></td><td>{text}{headers}{content}</td></tr>"


def _contents(content: Json) -> Iterator[str]:
    for media_type, media in content.items():
        yield f"<p><code>{escape(media_type)}</code>: {_type(media['schema'])}</p>"


def _component(name: str, schema: Json) -> str:
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_text(schema.get('description', ''))}<p>{_type(schema)}</p></details>"
    )


def _type(schema: Any) -> str:
    """Describe a schema in words, with links to the schemas that have a name."""
    if not isinstance(schema, Mapping):
        return "anything" if schema else "nothing"
    if (reference := schema.get("$ref")) is not None:
        name = escape(str(reference).removeprefix(_SCHEMAS))
        return f'<a href="#schema-{name}">{name}</a>'
    for word, joined in (("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")):
        if word in schema:
            return joined.join(_type(each) for each in schema[word]) + _limits(schema)
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values) + _limits(schema)
    if "properties" in schema:
        return _members(schema)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', True))}{_limits(schema)}"
    within = f", which is {_type(schema['contentSchema'])}" if "contentSchema" in schema else ""
    return escape(str(schema.get("type", "anything"))) + _limits(schema) + within


def _members(schema: Json) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<li><code>{escape(name)}</code>{_needed(name in required)}: {_type(member)} "
        f"{_inline(member.get('description', '')) if isinstance(member, Mapping) else ''}</li>"
        for name, member in schema["properties"].items()
    )
    closed = '<li class="note">no others</li>' if schema.get("additionalProperties") is False else ""
    return f"<ul>{rows}{closed}</ul>"


def _needed(required: bool) -> str:
    return ' <span class="note">(required)</span>' if required else ""


def _limits(schema: Json) -> str:
    """Describe the other limits on a value."""
    names = (
        *("minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "maxProperties"),
        *("contentEncoding", "contentMediaType", "default"),
    )
    found = [f"{name} <code>{escape(json.dumps(schema[name]))}</code>" for name in names if name in schema]
    return f' <span class="note">({", ".join(found)})</span>' if found else ""


def _text(text: str) -> str:
    """Render the paragraphs, lists and `code` of Markdown; the document has nothing else."""
    made = []
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if lines and all(line.startswith("- ") for line in lines):
            made.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif lines:
            made.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(made)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
