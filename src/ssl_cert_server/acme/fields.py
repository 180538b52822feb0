"""Taking decoded JSON apart; what is wrong is named in a MalformedResponse."""

from __future__ import annotations

import enum
from typing import Any, TypeVar

from ssl_cert_server.acme.text import one_line
from ssl_cert_server.errors import MalformedResponse

URL_SCHEMES = ("https://", "http://")
_Status = TypeVar("_Status", bound=enum.StrEnum)


def object_of(value: object, what: str) -> dict[str, Any]:
    """The value as a JSON object."""
    if not isinstance(value, dict):
        raise MalformedResponse(f"{what}: not a JSON object")
    return value


def _present(document: dict[str, Any], name: str, what: str) -> object:
    if document.get(name) is None:
        raise MalformedResponse(f"{what}: field {name!r} is missing")
    return document[name]


def string_field(document: dict[str, Any], name: str, what: str) -> str:
    """A field that has to be a string."""
    value = _present(document, name, what)
    if not isinstance(value, str):
        raise MalformedResponse(f"{what}: field {name!r} is not a string")
    return value


def list_field(document: dict[str, Any], name: str, what: str) -> list[object]:
    """A field that has to be a list."""
    value = _present(document, name, what)
    if not isinstance(value, list):
        raise MalformedResponse(f"{what}: field {name!r} is not a list")
    return value


def url_field(document: dict[str, Any], name: str, what: str) -> str:
    """A field that has to be an absolute URL."""
    return url_of(_present(document, name, what), name, what)


def url_of(value: object, name: str, what: str) -> str:
    """The value, which came from field ``name``, as an absolute URL."""
    if not isinstance(value, str) or not value.startswith(URL_SCHEMES):
        raise MalformedResponse(f"{what}: field {name!r} is not a URL")
    return value


def status_field(states: type[_Status], document: dict[str, Any], what: str) -> _Status:
    """The ``status`` field as one of the states it may have."""
    value = string_field(document, "status", what)
    try:
        return states(value)
    except ValueError:
        raise MalformedResponse(f"{what}: field 'status' is {one_line(value, 50)!r}") from None


def optional_text(value: object, name: str) -> str:
    """A field of what may be an object, or "" where there is no such string."""
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def optional_url(document: dict[str, Any], name: str) -> str | None:
    """A field that may be an absolute URL, or None where it is anything else."""
    text = optional_text(document, name)
    return text if text.startswith(URL_SCHEMES) else None


def optional_list(value: object) -> list[object]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []
