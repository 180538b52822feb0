"""Making a CA's words fit for a log: one bounded line, without tokens."""

from __future__ import annotations

import re

MAX_LENGTH = 1000

# CAs quote what they expected and fetched: the whole key authorization, or a URL that ends in the token. The
# look-behind keeps the search linear on a megabyte of letters; the look-ahead spares the labels of a long host name.
_KEY_AUTHORIZATION = re.compile(r"(?<![\w-])[\w-]{22,}\.[\w-]{43}(?![\w-]|\.[\w-])", re.ASCII)
_CHALLENGE_PATH = re.compile(r"(/\.well-known/acme-challenge/)[\w-]+", re.ASCII)


def one_line(text: str, limit: int = MAX_LENGTH) -> str:
    """Replace what doesn't print (line ends, escapes, direction marks) by spaces, and cut what is too long."""
    # Cut before looking at each character: the text may be a megabyte.
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(char if char.isprintable() else " " for char in cut)


def without_secrets(text: str, *tokens: str | None) -> str:
    """Take out key authorizations, tokens in challenge URLs, and the given tokens."""
    text = _KEY_AUTHORIZATION.sub("<key authorization>", text)
    text = _CHALLENGE_PATH.sub(r"\1<token>", text)
    for token in filter(None, tokens):
        text = text.replace(token, "<token>")
    return text
