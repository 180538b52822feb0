"""Why a name is answered as it is: its rule, what is stored, what failed last, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import InvalidCertificate, NotPermitted, StorageError
from ssl_cert_server.issuers.local_ca import ROOT_KEY
from ssl_cert_server.model import Certificate, KeyFamily, Permission, Subject
from ssl_cert_server.ocsp.codec import OcspStatus
from ssl_cert_server.ocsp.staples import load_staple
from ssl_cert_server.pki.names import covers
from ssl_cert_server.service.policy import Decision, Policy, Source
from ssl_cert_server.service.records import load_record
from ssl_cert_server.service.remedies import OUTCOME_REMEDIES, Outcome, remedy_for
from ssl_cert_server.service.state import NameState, is_backing_off, load_state
from ssl_cert_server.service.usable import keys_elsewhere, parse_usable
from ssl_cert_server.service.verdicts import SharedVerdicts
from ssl_cert_server.storage.base import Storage

_UNITS = ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min"))
_ABSENT = {
    Source.MANAGED: Outcome.MANAGED_MISSING,
    Source.LOCAL_CA: Outcome.MADE_BY_REQUEST,
    Source.SELF_SIGNED: Outcome.MADE_BY_REQUEST,
}
_UNUSABLE = {
    Source.MANAGED: Outcome.MANAGED_UNUSABLE,
    Source.LOCAL_CA: Outcome.ROOT_UNUSABLE,
    Source.SELF_SIGNED: Outcome.MADE_BY_REQUEST,
}

Trouble = Callable[[], Awaitable[str | None]]
"""Returns the reason why storage can't be written now, or None."""


async def explain(
    name: str,
    policy: Policy,
    storage: Storage,
    clock: Clock,
    family: KeyFamily | None = None,
    *,
    renewals: str,
    trouble: Trouble,
) -> str:
    """Explain what becomes of a normalised name, or wildcard, in lines of plain words.

    ``renewals`` is the queue that they stand in. Each outcome but that the name is served has a ``do:`` line.

    :raises StorageError: storage can't be read.
    """
    try:
        decision = policy.decide_for_operator(name, family)
    except NotPermitted as error:
        return f"{name}\n  rule: none ({error})\n  do:   {OUTCOME_REMEDIES[Outcome.NOT_PERMITTED]}\n"
    work = _Explanation(name, decision, storage, clock, renewals, trouble)
    await work.run()
    return "\n".join([name, *(f"  {line}" for line in work.lines)]) + "\n"


@dataclass(slots=True)
class _Explanation:
    name: str
    decision: Decision
    storage: Storage
    clock: Clock
    renewals: str
    trouble: Trouble
    lines: list[str] = field(default_factory=list)

    async def run(self) -> None:
        self.lines.append(f"rule: {_rule(self.name, self.decision)}")
        source, subject = self.decision.source, self.decision.subject
        if source is Source.ACME:
            await self._acme(subject)
            return
        cert_key = ROOT_KEY if source is Source.LOCAL_CA else subject.cert_key
        pem = await self.storage.get(cert_key)
        if await self._served(cert_key, pem):
            outcome = Outcome.SERVED
        else:
            outcome = _ABSENT[source] if pem is None else _UNUSABLE[source]
        if outcome is Outcome.MADE_BY_REQUEST and await self._unwritable():
            outcome = Outcome.STORAGE_UNWRITABLE
        self._do(outcome, "", cert_key)

    async def _acme(self, subject: Subject) -> None:
        cert_key, now = subject.cert_key, self.clock.now()
        state = await load_state(self.storage, cert_key)
        pem = await self.storage.get(cert_key)
        served = await self._served(cert_key, pem) or await self._served_elsewhere(subject)
        try:
            self.lines += await _plans(subject, self.storage, self.clock, self.renewals)
        except StorageError as error:  # a full disk refuses to open the due index, and certificates can be read
            self.lines.append(f"plan:   can't be read: {error}")
        self.lines += _history(state)
        outcome = Outcome.SERVED if served else await self._expected(state, subject)
        if outcome is not Outcome.SERVED or state.error:
            self.lines.append(f"next:   {_next(outcome, state, now)}")
        if outcome is not Outcome.SERVED and await self._unwritable():
            outcome = Outcome.STORAGE_UNWRITABLE
        self._do(outcome, state.error, cert_key)

    async def _served(self, cert_key: str, pem: bytes | None) -> bool:
        """Describe what is stored under a key, and return whether it is served."""
        if pem is None:
            self.lines.append(f"stored: nothing under {cert_key}")
            return False
        source, now = self.decision.source, self.clock.now()
        try:
            certificate = parse_usable(source, pem, [self.name], now)
        except InvalidCertificate as error:
            self.lines.append(f"stored: under {cert_key}, of no use: {error}")
            return False
        self.lines += _certificate(cert_key, certificate, now)
        if source is Source.MANAGED and not any(covers(known, self.name) for known in certificate.names):
            self.lines.append(f"        it does not cover {self.name}: clients that check names refuse it")
        if source is Source.ACME:
            self.lines += await _advice(cert_key, certificate, self.storage)
        self.lines += await _staple(cert_key, certificate, self.storage, now)
        return True

    async def _served_elsewhere(self, subject: Subject) -> bool:
        for cert_key in keys_elsewhere(self.name, subject):
            pem = await self.storage.get(cert_key)
            if pem is not None and await self._served(cert_key, pem):
                self.lines.append(f"        it is served until there is one under {subject.cert_key}")
                return True
        return False

    async def _expected(self, state: NameState, subject: Subject) -> Outcome:
        now = self.clock.now()
        if is_backing_off(state, now):
            return Outcome.BACKING_OFF
        if state.error and not state.failures and now < state.expected_at:
            return Outcome.WAITING
        if state.placing_at:
            return Outcome.BEING_ORDERED
        verdicts = SharedVerdicts(self.storage, self.clock)
        if subject.permission is Permission.ASK and not await verdicts.allowed_for(subject.names[0]):
            return Outcome.ASKED_BY_REQUEST
        return Outcome.ISSUED_BY_REQUEST

    async def _unwritable(self) -> bool:
        reason = await self.trouble()
        if reason is not None:
            self.lines.append(f"next:   nothing is issued while storage can't be written: {reason}")
        return reason is not None

    def _do(self, outcome: Outcome, failure: str, cert_key: str) -> None:
        remedy = remedy_for(outcome, failure, cert_key)
        if remedy is not None:
            self.lines.append(f"do:     {remedy}")


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
            otherwise = "; where it refuses, self_signed answers" if decision.otherwise else ""
            return f"no rule covers it, so ask decides before anything is issued{otherwise}"
        case Source.ACME if subject.permission is Permission.PATTERN:
            return "re_patterns matches it: a CA issues for it"
        case _ if name == subject.names[0] and name.startswith("*."):
            return "wildcards lists it: a CA issues for it"
        case _ if name != subject.names[0]:
            return f"the certificate for {', '.join(subject.names)} answers it (wildcards)"
    return "domains lists it: a CA issues for it"


def _certificate(cert_key: str, certificate: Certificate, now: float) -> Iterator[str]:
    days = (certificate.not_after - now) / 86_400
    names = f", for {', '.join(sorted(certificate.names))}" if certificate.names else ""
    yield f"stored: under {cert_key}{names}"
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


def _history(state: NameState) -> Iterator[str]:
    for order in state.orders:
        yield f"open:   order {order.order_url}; the next attempt goes on with it"
    if state.placing_at:
        yield f"open:   an order is being placed since {_time(state.placing_at)}, unless its server died"
    if state.error and not state.failures:
        yield f"waits:  {_time(state.failed_at)}: {state.error}"
    elif state.error:
        yield f"failed: {_time(state.failed_at)}, {state.failures} in a row: {state.error}"


def _next(outcome: Outcome, state: NameState, now: float) -> str:
    match outcome:
        case Outcome.SERVED if is_backing_off(state, now):
            return f"its renewal is tried again not before {_later(state.retry_at, now)}; requests are served"
        case Outcome.SERVED:
            return "its renewal is tried again as planned; requests are served"
        case Outcome.BACKING_OFF:
            return f"tried again not before {_later(state.retry_at, now)}; requests before then are refused"
        case Outcome.WAITING:
            expected = _later(state.expected_at, now)
            return f"there may be room from {expected}; a request or a renewal then has it issued"
        case Outcome.BEING_ORDERED:
            return "the order that is being placed has it issued"
        case Outcome.ASKED_BY_REQUEST:
            return "the next request has it issued where ask permits it"
    return "the next request has it issued"


def _later(at: float, now: float) -> str:
    """Return a time, and how far ahead it is, rounded up to its unit."""
    seconds = at - now
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{_time(at)}, in {math.ceil(seconds / unit)} {name}"
    return f"{_time(at)}, in {math.ceil(seconds)} s"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
