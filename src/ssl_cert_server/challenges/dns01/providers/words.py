"""A provider's words in an error: one bounded line, without credentials."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from ssl_cert_server.acme.text import one_line

MAX_WORDS = 300
"""Characters."""

_HIDDEN = "<hidden>"
_MAX_READ = 16 * 1024
_LEAST_SECRET = 4
"""Characters: shorter values (a flag, a port) would blank half of a sentence."""

_URL = re.compile(r"\b(https?://)(?:[^\s/@]*@)?([^\s/?#'\"<>)]+)[^\s'\"<>)]*", re.IGNORECASE)
# urllib3 says "Max retries exceeded with url: /path?token=...".
_PATH = re.compile(r"(\burl: )\S+", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&][\w.~-]{1,64}=)[^\s&'\"<>]+")
# Session tokens that a provider made up: letters and digits of no language.
_OPAQUE = re.compile(r"(?<![\w+/=-])(?=[\w+/=-]*\d)(?=[\w+/=-]*[A-Za-z])[\w+/=-]{24,}", re.ASCII)


class Words:
    """Knows the values of a provider's options, and leaves none of them in what it passes on."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if len(secret) >= _LEAST_SECRET for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Give a text fit for an error: short, in one line, and without secrets, URLs' paths and opaque strings."""
        text = text[:_MAX_READ]
        for form in self._forms:
            text = text.replace(form, _HIDDEN)
        text = _PATH.sub(rf"\1{_HIDDEN}", _URL.sub(r"\1\2", text))
        text = _OPAQUE.sub(_HIDDEN, _PARAMETER.sub(rf"\1{_HIDDEN}", text))
        return one_line(" ".join(one_line(text, _MAX_READ).split()), MAX_WORDS)


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield base64.b64encode(secret.encode()).decode()
    yield repr(secret)[1:-1]
