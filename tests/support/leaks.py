"""Does a private key show where it must not?"""

from __future__ import annotations

import traceback
from collections.abc import Iterable


def told_by(error: BaseException) -> str:
    """All that an exception tells, its causes and contexts included, also those a traceback would hide."""
    told = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        told += [str(current), repr(current), repr(current.args), *traceback.format_exception(current)]
        waiting += [current.__cause__, current.__context__]
    return "\n".join(told)


def assert_no_key(key_pem: bytes | str, *places: object) -> None:
    """Assert that no line of the key's PEM body stands in what ``places`` show of themselves."""
    shown = "\n".join(text for place in places for text in _texts(place))
    body = list(_body(key_pem))
    assert body, "that was no PEM"
    for line in body:
        assert line not in shown


def _texts(place: object) -> Iterable[str]:
    if isinstance(place, BaseException):
        return [told_by(place)]
    return [str(place), repr(place)]


def _body(key_pem: bytes | str) -> Iterable[str]:
    text = key_pem.decode() if isinstance(key_pem, bytes) else key_pem
    # The first 16 characters say no more than what kind of key it is.
    lines = [line.strip() for line in text.splitlines() if line.strip() and "-----" not in line]
    return (line for line in (lines[0][16:], *lines[1:]) if len(line) > 8)
