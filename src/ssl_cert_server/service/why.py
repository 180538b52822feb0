"""Why a name is answered as it is: its rule, what is stored, what failed last, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotPermitted
from ssl_cert_server.model import Certificate, KeyFamily, Permission, Subject
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import load_staple
from ssl_cert_server.pki.x509 import check_covers, check_not_expired, parse_certificate
from ssl_cert_server.service.policy import Decision, Policy, Source
from ssl_cert_server.service.records import load_record
from ssl_cert_server.service.state import NameState, load_state
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.storage.base import Storage

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
"""What to do, by what the last failure's words hold; the first that fits."""


async def explain(
    name: str,
    policy: Policy,
    storage: Storage,
    clock: Clock,
    family: KeyFamily | None = None,
    *,
    renewals: str,
) -> str:
    """Explain what becomes of a normalised name, or wildcard, in lines of plain words.

    ``renewals`` is the queue that they stand in.

    :raises StorageError: storage can't be read.
    """
    now = clock.now()
    try:
        decision = policy.decide_for_operator(name, family)
    except NotPermitted as error:
        return (
            f"{name}\n  rule: none ({error})\n  do:   to have it issued, add it to domains, wildcards or re_patterns\n"
        )
    lines = [f"{name}", f"  rule: {_rule(name, decision)}"]
    if decision.subject.cert_key:
        lines += [f"  {line}" for line in await _stored(name, decision, storage, now)]
    if decision.source is Source.ACME:
        lines += [f"  {line}" for line in await _plans(decision.subject, storage, clock, renewals)]
        lines += [f"  {line}" for line in await _history(decision.subject, storage, now)]
    return "\n".join(lines) + "\n"


def _rule(name: str, decision: Decision) -> str:
    subject = decision.subject
    match decision.source:
        case Source.MANAGED:
            return f"managed: the certificate that you keep under {subject.cert_key} answers it"
        case Source.LOCAL_CA:
            return "local_ca.names matches it: the server's own CA issues for it at once"
        case Source.SELF_SIGNED:
            return "self_signed answers what no other rule covers"
        case Source.ACME if subject.permission is Permission.ASK:
            return "no rule covers it, so ask decides before anything is issued"
        case Source.ACME if subject.permission is Permission.PATTERN:
            return "re_patterns matches it: a CA issues for it"
        case _ if name == subject.names[0] and name.startswith("*."):
            return "wildcards lists it: a CA issues for it"
        case _ if name != subject.names[0]:
            return f"the certificate for {', '.join(subject.names)} answers it (wildcards)"
    return "domains lists it: a CA issues for it"


async def _stored(name: str, decision: Decision, storage: Storage, now: float) -> list[str]:
    cert_key = decision.subject.cert_key
    pem = await storage.get(cert_key)
    if pem is None:
        later = "; the first request has it issued" if decision.source is Source.ACME else ""
        return [f"stored: nothing under {cert_key}{later}"]
    try:
        certificate = parse_certificate(pem)
        check_covers(certificate, name)
        check_not_expired(certificate, now)
    except InvalidCertificate as error:
        return [f"stored: under {cert_key}, of no use: {error}"]
    return [
        *_certificate(cert_key, certificate, now),
        *await _advice(cert_key, certificate, storage),
        *await _staple(cert_key, certificate, storage, now),
    ]


def _certificate(cert_key: str, certificate: Certificate, now: float) -> Iterator[str]:
    days = (certificate.not_after - now) / 86_400
    yield f"stored: under {cert_key}, for {', '.join(sorted(certificate.names))}"
    yield f"        valid until {_time(certificate.not_after)} ({days:.1f} days), {certificate.family.upper()} key"


async def _staple(cert_key: str, certificate: Certificate, storage: Storage, now: float) -> list[str]:
    if not certificate.ocsp_urls:
        return []
    staple = await load_staple(storage, cert_key)
    if staple.fingerprint != certificate.fingerprint or not staple.refresh_at:
        return ["        no staple: its responder was not asked yet"]
    if staple.holds(now):
        said = f"staple valid until {_time(staple.next_update)}"
    elif staple.status is not OcspStatus.GOOD and staple.this_update:
        said = f"no staple: {certificate.ocsp_urls[0]} says {staple.status}"
    else:
        said = f"no staple: {certificate.ocsp_urls[0]} gave no usable answer"
    return [f"        {said}; asked again at {_time(staple.refresh_at)}"]


async def _advice(cert_key: str, certificate: Certificate, storage: Storage) -> list[str]:
    record = await load_record(storage, cert_key, certificate.fingerprint)
    lines = []
    if record.directory_url:
        proven = f"control proven by {record.challenge}" if record.challenge else "control was known to the CA already"
        lines.append(f"        issued by {record.directory_url}, {proven}")
    if record.window_end:
        window = f"{_time(record.window_start)} to {_time(record.window_end)}"
        lines.append(f"        its CA wants it renewed from {window}; drawn: {_time(record.renew_at)}")
    return lines


async def _plans(subject: Subject, storage: Storage, clock: Clock, renewals: str) -> list[str]:
    lines = []
    if subject.permission is Permission.ASK:
        allowed_for = await SharedVerdicts(storage, clock).allowed_for(subject.names[0])
        until = (
            f"permitted it until {_time(clock.now() + allowed_for)}" if allowed_for else "has not permitted it lately"
        )
        lines.append(f"ask:    the endpoint {until}")
    due = await storage.scheduled(renewals, subject.cert_key)
    if due is not None:
        lines.append(f"plan:   renewed, or looked at again, from {_time(due.at)}")
    return lines


async def _history(subject: Subject, storage: Storage, now: float) -> list[str]:
    state = await load_state(storage, subject.cert_key)
    lines = []
    lines += [f"open:   order {order.order_url}; the next attempt goes on with it" for order in state.orders]
    if state.placing_at:
        lines.append(f"open:   an order is being placed since {_time(state.placing_at)}, unless its server died")
    if state.error and not state.failures:
        lines.append(f"waits:  {_time(state.failed_at)}: {state.error}")
    elif state.error:
        lines.append(f"failed: {_time(state.failed_at)}, {state.failures} in a row: {state.error}")
    if state.error:
        lines.append(f"next:   {_next(state, now)}")
        lines += [f"do:     {remedy}" for pattern, remedy in _REMEDIES if pattern.search(state.error)][:1]
    return lines


def _next(state: NameState, now: float) -> str:
    if state.failed_at <= now < state.retry_at:
        return f"tried again from {_time(state.retry_at)}; requests before then are refused"
    if not state.failures and now < state.expected_at:
        return f"there may be room from {_time(state.expected_at)}; a request or a renewal then has it issued"
    return "tried again at the next request or renewal"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
