"""The content of a query, as models that check it: text, or blocks of text, images and documents."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, ValidationInfo

from portico.transports.long_texts import base64, look, not_blank, pdf

# The characters that Python counts as blank (`str.strip`), for readers of the OpenAPI document.
NOT_BLANK = r"[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_PADDED = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
BASE64 = f"^{_PADDED}"
PDF = f"^JVBERi0[A-Za-z0-9+/]{_PADDED}"
"""The base64 of ``%PDF-`` and what follows."""


def told(**schema: Any) -> Any:
    """Put a validator's check into the JSON Schema."""
    return Field(json_schema_extra=schema)


def _not_blank(text: str, info: ValidationInfo) -> str:
    return look(text, not_blank, info)


def _base64(text: str, info: ValidationInfo) -> str:
    return look(text, base64, info)


def _pdf(text: str, info: ValidationInfo) -> str:
    return look(text, pdf, info)


# These tell which form of a query, a block or a source is meant, so that a mistake is reported for that form alone.
def _query_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<blocks>" if isinstance(value, list) else None


def _form(value: Any) -> str | None:
    if isinstance(value, BaseModel):  # one that is written
        return f"<{getattr(value, 'type', None)}>"
    return f"<{value.get('type')}>" if isinstance(value, dict) else None


NonBlank = Annotated[str, AfterValidator(_not_blank), told(pattern=NOT_BLANK)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class TextBlock(_Part):
    type: Literal["text"]
    text: NonBlank


class ImageSource(_Part):
    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: Annotated[str, AfterValidator(_base64), told(pattern=BASE64, minLength=4, contentEncoding="base64")]


class ImageBlock(_Part):
    type: Literal["image"]
    source: ImageSource


class PdfSource(_Part):
    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: Annotated[str, AfterValidator(_pdf), told(pattern=PDF, contentEncoding="base64")]


class PlainTextSource(_Part):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: NonBlank


DocumentSource = Annotated[
    Annotated[PdfSource, Tag("<base64>")] | Annotated[PlainTextSource, Tag("<text>")],
    Discriminator(_form, custom_error_type="source", custom_error_message="must be a base64 or a text source"),
]


class DocumentBlock(_Part):
    """A PDF, or a text that is no part of the query itself. ``context`` tells the model more about it."""

    type: Literal["document"]
    source: DocumentSource
    title: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    context: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = None


Block = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")],
    Discriminator(_form, custom_error_type="block", custom_error_message="must be a text, image or document block"),
]
Query = Annotated[
    Annotated[NonBlank, Tag("<text>")]
    | Annotated[list[Block], Field(min_length=1, max_length=100, fail_fast=True), Tag("<blocks>")],
    Discriminator(_query_form, custom_error_type="query", custom_error_message="must be text or a list of blocks"),
]
