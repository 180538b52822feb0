"""What a CA sends, in the RFC's own words (RFC 8555 section 7.1).

Parsing takes decoded JSON, ignores what it doesn't know, and raises MalformedResponse naming the field that is missing
or wrong.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from ssl_cert_server.acme.fields import (
    list_field,
    object_of,
    optional_list,
    optional_text,
    status_field,
    string_field,
    url_field,
    url_of,
)
from ssl_cert_server.acme.text import one_line, without_secrets

_URN = "urn:ietf:params:acme:error:"
_BLANK = "about:blank"
_MAX_TYPE = 200


class OrderStatus(enum.StrEnum):
    """RFC 8555 section 7.1.6: pending -> ready -> processing -> valid; invalid from anywhere."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AuthorizationStatus(enum.StrEnum):
    """RFC 8555 section 7.1.6."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Identifier:
    """What is certified: ``type`` is ``dns`` or ``ip`` (section 9.7.7)."""

    type: str
    value: str

    @classmethod
    def parse(cls, value: object, what: str) -> Identifier:
        document = object_of(value, f"{what}: identifier")
        return cls(
            string_field(document, "type", f"{what}: identifier"),
            string_field(document, "value", f"{what}: identifier"),
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document (section 6.7, RFC 9457), cleaned of tokens.

    ``type`` is ACME's short word (``rateLimited``), or a whole URI where it isn't one of ACME's.
    """

    type: str
    detail: str
    identifier: str | None = None
    subproblems: tuple[Problem, ...] = ()

    @classmethod
    def parse(cls, value: object, *, token: str | None = None) -> Problem:
        """Never raises: a problem that is itself malformed still says something."""
        document = value if isinstance(value, dict) else {}
        return cls(
            type=one_line(optional_text(document, "type").removeprefix(_URN), _MAX_TYPE) or _BLANK,
            detail=without_secrets(optional_text(document, "detail") or optional_text(document, "title"), token),
            identifier=optional_text(document.get("identifier"), "value") or None,
            subproblems=tuple(cls._leaf(sub, token) for sub in optional_list(document.get("subproblems"))),
        )

    @classmethod
    def _leaf(cls, value: object, token: str | None) -> Problem:
        # Subproblems hold no subproblems (section 6.7.1): reading on would recurse as deep as the CA likes.
        document = {**value, "subproblems": None} if isinstance(value, dict) else value
        return cls.parse(document, token=token)

    def describe(self) -> str:
        """One line of at most a thousand characters, subproblems included."""
        return one_line("; ".join(_words(part) for part in (self, *self.subproblems)))


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to prove control of a name (section 7.1.5).

    Types we don't know lack what ours have (``dns-persist-01`` has no token), so that all but ``type`` may be absent.
    """

    type: str
    url: str | None
    status: str
    token: str | None = field(repr=False)
    error: Problem | None

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Challenge:
        token = optional_text(value, "token") or None
        error = value.get("error")
        return cls(
            type=optional_text(value, "type"),
            url=optional_text(value, "url") or None,
            status=optional_text(value, "status") or "pending",
            token=token,
            error=None if error is None else Problem.parse(error, token=token),
        )


@dataclass(frozen=True, slots=True)
class Authorization:
    """The right to a name, proven or to be proven (section 7.1.4).

    ``retry_after`` is the answer's Retry-After in seconds.
    """

    identifier: Identifier
    status: AuthorizationStatus
    challenges: tuple[Challenge, ...]
    wildcard: bool = False
    retry_after: float | None = None

    @classmethod
    def parse(cls, value: object, *, retry_after: float | None = None) -> Authorization:
        what = "authorization"
        document = object_of(value, what)
        challenges = list_field(document, "challenges", what)
        return cls(
            identifier=Identifier.parse(document.get("identifier"), what),
            status=status_field(AuthorizationStatus, document, what),
            challenges=tuple(Challenge.parse(entry) for entry in challenges if isinstance(entry, dict)),
            wildcard=document.get("wildcard") is True,
            retry_after=retry_after,
        )

    @property
    def name(self) -> str:
        """The name as it was ordered: the identifier alone drops a wildcard's ``*.``."""
        return f"*.{self.identifier.value}" if self.wildcard else self.identifier.value


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate to be (section 7.1.3). ``authorizations``, ``finalize`` and ``certificate`` are URLs."""

    url: str
    status: OrderStatus
    authorizations: tuple[str, ...]
    finalize: str
    certificate: str | None = None
    error: Problem | None = None
    retry_after: float | None = None

    @classmethod
    def parse(cls, value: object, *, url: str, retry_after: float | None = None) -> Order:
        what = "order"
        document = object_of(value, what)
        status = status_field(OrderStatus, document, what)
        error = document.get("error")
        urls = list_field(document, "authorizations", what)
        return cls(
            url=url,
            status=status,
            authorizations=tuple(url_of(entry, "authorizations", what) for entry in urls),
            finalize=url_field(document, "finalize", what),
            certificate=url_field(document, "certificate", what) if status is OrderStatus.VALID else None,
            error=None if error is None else Problem.parse(error),
            retry_after=retry_after,
        )


def _words(problem: Problem) -> str:
    return ": ".join(word for word in (problem.identifier, problem.type, problem.detail) if word)
