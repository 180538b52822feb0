"""International names by UTS 46's non-transitional "lookup" profile, which is what the predecessor's clients expect.

IDNA 2008 by itself is stricter: it refuses the symbols and emoji that names under some top-level domains hold.
"""

from __future__ import annotations

import unicodedata

import idna

_PREFIX = "xn--"
_JOINERS = ("\u200c", "\u200d")


def to_ascii(name: str) -> str:
    """Give a host name's A-labels.

    :raises ValueError: the name isn't valid (idna's own errors and punycode's are such).
    """
    return ".".join(_a_label(label) for label in idna.uts46_remap(name).split("."))


def _a_label(label: str) -> str:
    if label.startswith(_PREFIX):
        decoded = label.removeprefix(_PREFIX).encode("ascii").decode("punycode")
        if decoded.isascii() or idna.uts46_remap(decoded) != decoded or _encode(decoded) != label:
            raise ValueError("not the A-label of any name")
        _check(decoded)
    elif not label.isascii():
        _check(label)
        return _encode(label)
    return label


def _encode(label: str) -> str:
    return _PREFIX + label.encode("punycode").decode("ascii")


def _check(label: str) -> None:
    """Check what UTS 46 section 4.1 asks of a label beyond its code points."""
    if label.startswith("-") or label.endswith("-"):
        raise ValueError("a hyphen at an end")
    idna.check_initial_combiner(label)
    if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in label):
        idna.check_bidi(label)
    for position, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, position):
            raise ValueError("a joiner where it joins nothing")
