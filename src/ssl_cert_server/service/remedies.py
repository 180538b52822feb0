"""What an operator can do about a failure, by its text and by what becomes of the next request."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping

_ANSWERED_ELSEWHERE = (
    "something else answered the CA: see that the name leads to a web server that passes "
    "/.well-known/acme-challenge/ on to this server"
)
_REMEDIES = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (r"^can't \w+ ", "storage refused a write: see that it has room, and that the server may write all of it"),
        (
            r"_acme-challenge|\bTXT record|\bDNS challenge|authoritative name server|no dns-01 provider"
            r"|^(?:rfc2136|lexicon:\S+|httpreq|acme-dns): |^\S+ (?:present|cleanup) \S+\. ",
            "see that the DNS provider's credentials and zone are right, and that every name server is up to date",
        ),
        (
            r": authorization is \w+: connection:",
            "the CA could not connect to the name: see that its addresses are right, and open port 80 (http-01) or 443 "
            "(tls-alpn-01) from the Internet to a web server that passes challenges on to this server",
        ),
        (
            r": authorization is \w+: dns:",
            "the CA could not resolve the name: see that its A and AAAA records exist, and that its DNS servers answer",
        ),
        (r": authorization is \w+: (?:unauthorized|incorrectResponse):", _ANSWERED_ELSEWHERE),
        (
            r": authorization is \w+: tls:",
            "the CA met a wrong certificate at the name: see that the challenge reaches this server",
        ),
        (
            r"\bcaa:",
            "a CAA record of the name, or of a name above it, permits other CAs only: have its owner add this one",
        ),
        (r"\brateLimited:", "a limit of the CA is reached: wait, or configure another CA after it"),
        (r"\brejectedIdentifier:", "the CA never issues for this name: configure another CA, or take the name out"),
        (
            r"(?i)external ?account",
            "the CA wants an account bound to yours at its own site: set acme[].eab to the key id and key it gave",
        ),
        (
            r": no room for more ",
            "wait, or configure another CA after this one; a limit of your own (on_demand) can be raised",
        ),
        (
            r"every CA failed lately|(?:Connect|Read|Write|Pool)(?:Error|Timeout)|no answer within|HTTP 5\d\d"
            r"|(?:did|had) not finish",
            "the CA, or the way to it, is down: see that this machine reaches it (HTTPS, DNS, HTTPS_PROXY), or "
            "configure another CA after it",
        ),
        (r"^no account: ", "the CA lets this server have no account: see acme[].email, acme[].eab and its terms"),
        (r"\bpublic_ips\b", "have the owner of the name point it here, or correct preflight.public_ips"),
    )
)
"""What to do, by what the text of the last failure contains; the first that fits."""


class Outcome(enum.Enum):
    """What becomes of the next request for a name."""

    SERVED = enum.auto()
    NOT_PERMITTED = enum.auto()
    MANAGED_MISSING = enum.auto()
    MANAGED_UNUSABLE = enum.auto()
    ROOT_UNUSABLE = enum.auto()
    MADE_BY_REQUEST = enum.auto()
    """A self-signed certificate, or the local CA's root."""

    ISSUED_BY_REQUEST = enum.auto()
    ASKED_BY_REQUEST = enum.auto()
    """The endpoint of ``ask`` decides."""

    BEING_ORDERED = enum.auto()
    BACKING_OFF = enum.auto()
    WAITING = enum.auto()
    """For room in a budget, or for a CA that is down."""

    STORAGE_UNWRITABLE = enum.auto()


OUTCOME_REMEDIES: Mapping[Outcome, str] = {
    Outcome.NOT_PERMITTED: "to have it issued, add it to domains, wildcards or re_patterns",
    Outcome.MANAGED_MISSING: (
        "store the private key and the certificate chain, in PEM, under {cert_key}; they are served within seconds"
    ),
    Outcome.MANAGED_UNUSABLE: (
        "store a valid private key and certificate chain, in PEM, under {cert_key}; until then a running server serves "
        "the last valid one that it read, until that expires or the server restarts"
    ),
    Outcome.ROOT_UNUSABLE: (
        "restore {cert_key} from a backup; or remove it and restart the server, which makes another root that every "
        "client has to trust"
    ),
    Outcome.MADE_BY_REQUEST: "nothing: the next request has it made",
    Outcome.ISSUED_BY_REQUEST: "nothing: the next request has it issued",
    Outcome.ASKED_BY_REQUEST: "nothing: the next request has it issued where the endpoint permits it",
    Outcome.BEING_ORDERED: "wait for the order; where its server died, the next request finds that out",
    Outcome.BACKING_OFF: "mend what the failure says, and wait; to have it tried at once, remove _state/{cert_key}",
    Outcome.WAITING: "wait, or configure another CA after this one",
    Outcome.STORAGE_UNWRITABLE: "make storage writable; nothing needs a restart",
}
"""What to do about each outcome but SERVED."""


def remedy_for(outcome: Outcome, failure: str, cert_key: str) -> str | None:
    """Return what to do: what the text of the last failure calls for, else what ``outcome`` does.

    None where the name is served and the failure, if any, is none that is known.
    """
    if outcome is not Outcome.STORAGE_UNWRITABLE:
        for pattern, remedy in _REMEDIES:
            if failure and pattern.search(failure):
                return remedy
    return OUTCOME_REMEDIES[outcome].format(cert_key=cert_key) if outcome is not Outcome.SERVED else None
