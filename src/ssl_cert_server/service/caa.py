"""Which CAs the owner of a name lets issue for it, for which account, and how (RFC 8659, RFC 8657): pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ssl_cert_server.acme.text import one_line
from ssl_cert_server.dns.resolver import CaaRecord

_CRITICAL = 128
_KNOWN_TAGS = frozenset({"issue", "issuewild", "iodef", "issuemail"})
_WHITE = " \t"
_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ISSUER = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_PARAMETER = re.compile(rf"[ \t]*({_WORD})[ \t]*=[ \t]*([\x21-\x3a\x3c-\x7e]*)[ \t]*")
_METHODS = re.compile(r"[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*")
_MOST_SHOWN = 5
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class CaaVerdict:
    """Which challenge types are left, in the order in which they were given.

    ``reason`` goes on where "the CAA records at example.com" leaves off: what they permit instead, and what their
    owner has to change. It is empty where every type is left.
    """

    methods: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Property:
    """One ``issue`` or ``issuewild`` that follows the grammar; ``issuer`` is empty where it permits nobody."""

    issuer: str
    accounts: tuple[str, ...]
    methods: tuple[str, ...]

    def admits(self, account_url: str | None) -> bool:
        if len(self.accounts) > 1:
            return False  # RFC 8657 section 3: unsatisfiable
        return not self.accounts or account_url is None or account_url == self.accounts[0]

    def admitted(self, methods: Sequence[str]) -> set[str]:
        if not self.methods:
            return set(methods)
        if len(self.methods) > 1 or not _METHODS.fullmatch(self.methods[0]):
            return set()
        return set(methods) & set(self.methods[0].split(","))


def permitted_methods(
    records: Sequence[CaaRecord],
    methods: Sequence[str],
    *,
    wildcard: bool,
    identities: Collection[str],
    account_url: str | None,
) -> CaaVerdict:
    """Tell by which of ``methods`` (ACME challenge types) a CA may validate a name.

    ``records`` are all those at the closest name that has any, none where no name has; ``wildcard`` tells whether the
    certificate is for ``*.`` of the name; ``identities`` are the CA's issuer domain names from its directory, at least
    one. With no ``account_url`` any account is taken to be the right one: it isn't registered yet, and would never be
    if the records already had to name it.
    """
    unknown = [record.tag for record in records if record.flags & _CRITICAL and record.tag not in _KNOWN_TAGS]
    if unknown:
        return CaaVerdict(
            (), f"hold a critical property that no CA may overlook: their owner has to remove {_shown(unknown)}"
        )
    wild = wildcard and any(record.tag == "issuewild" for record in records)
    tag = "issuewild" if wild else "issue"  # RFC 8659 section 4.3: the one or the other
    properties = [_parse(record.value) for record in records if record.tag == tag]
    if not properties:
        return CaaVerdict(tuple(methods))
    names = [identity.lower() for identity in identities]
    ours = [candidate for candidate in properties if candidate.issuer in names]
    if not ours:
        issuers = sorted({candidate.issuer for candidate in properties} - {""})
        whom = f"{_shown(issuers)} alone" if issuers else "no CA at all"
        return CaaVerdict((), f'permit {whom}: their owner has to add {tag} "{one_line(names[0], _LONGEST_SHOWN)}"')
    for_us = [candidate for candidate in ours if candidate.admits(account_url)]
    if not for_us:
        whom = _shown(sorted({candidate.issuer for candidate in ours}))
        return CaaVerdict(
            (), f"permit {whom} for other accounts alone: their owner has to set accounturi={account_url}"
        )
    admitted = {method for candidate in for_us for method in candidate.admitted(methods)}
    left = tuple(method for method in methods if method in admitted)
    if len(left) == len(methods):
        return CaaVerdict(left)
    missing = _shown([method for method in methods if method not in admitted])
    return CaaVerdict(left, f"don't permit {missing}: their owner has to change validationmethods")


def _parse(value: str) -> _Property:
    """Read a property's value; one that breaks the grammar permits nobody (RFC 8659 section 4.2)."""
    issuer, _, rest = value.partition(";")
    issuer = issuer.strip(_WHITE)
    parameters = [_PARAMETER.fullmatch(part) for part in rest.split(";")] if rest.strip(_WHITE) else []
    found = [(match[1], match[2]) for match in parameters if match]
    if len(found) < len(parameters) or not _ISSUER.fullmatch(issuer):
        return _Property("", (), ())
    return _Property(
        issuer.lower(),
        accounts=tuple(text for tag, text in found if tag == "accounturi"),
        methods=tuple(text for tag, text in found if tag == "validationmethods"),
    )


def _shown(words: Sequence[str]) -> str:
    """List what comes from the DNS in a way that is safe in a log."""
    shown = [one_line(word, _LONGEST_SHOWN) for word in words[:_MOST_SHOWN]]
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
