"""What every section of the file is made of: its rules, and the types of its values."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from ssl_cert_server.config import values

_CENTURY = 36500
_MONTH = 30 * 86_400


class Section(BaseModel):
    """A mapping of the file. A key whose value is null or empty text counts as left out, as with the predecessor."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in cls.model_fields or value not in (None, "")}


def some(value: Sequence[object]) -> Sequence[object]:
    """Refuse an empty list."""
    if not value:
        raise ValueError("must have at least one entry")
    return value


def one_or_more(value: object) -> object:
    """Take a single text for a list of one."""
    return [value] if isinstance(value, str) else value


def _text_only(value: object) -> object:
    return values.plain_text(value) if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(values.plain_text)]
FilePath = Annotated[Path, BeforeValidator(_text_only)]
Name = Annotated[Text, AfterValidator(values.identifier)]
Wildcard = Annotated[Text, AfterValidator(values.wildcard)]
ZoneName = Annotated[Text, AfterValidator(values.zone_name)]
Pattern = Annotated[Text, AfterValidator(values.pattern)]
StorageKey = Annotated[Text, AfterValidator(values.storage_key)]
Email = Annotated[Text, AfterValidator(values.email)]
Days = Annotated[int, Field(ge=1, le=_CENTURY)]
Seconds = Annotated[int, Field(ge=1, le=_MONTH)]
"""Seconds, for what a month is too long for."""

RateLimit = Annotated[values.Rate | None, PlainValidator(values.rate)]
"""None where there is no limit."""
