"""Warns of certificates that are about to expire and were not replaced: CAs don't send mails about it any more.

Their time alone tells, whatever is the matter: a renewal that fails, one that waits for room in the budget, one that
nobody planned, and the operator's own certificates, which nobody renews. Self-signed ones and those of the local
CA are made anew by whoever hands them out.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from ssl_cert_server.clock import Clock
from ssl_cert_server.errors import CertServerError, NotPermitted, StorageError
from ssl_cert_server.model import Certificate
from ssl_cert_server.renewal.due_worker import DueWorker
from ssl_cert_server.renewal.mending import Mending
from ssl_cert_server.renewal.plan import EXPIRIES, GIVEN_UP_AFTER, RenewalPlan, Stored
from ssl_cert_server.renewal.schedule import expiring_from, warned_again
from ssl_cert_server.storage.base import Due, Storage

_log = structlog.get_logger()

_MANAGED = "managed/"
"""Before the ``cert_key`` of managed certificates: a CA may have issued under the same key, which holds no slash."""

_SIDE_BY_SIDE = 4
_AFTER_ERROR = 3600.0
_LOOK_EVERY = 3600.0


@dataclass(frozen=True, slots=True)
class _Expiry:
    """Of one certificate: from when on it is worth a warning, when it expires (Unix seconds), and what to do.

    ``stored`` is None where an operator manages it.
    """

    begins: float
    not_after: float
    remedy: str
    stored: Stored | None = None


class Watched(Protocol):
    """The certificates that are warned of."""

    async def find(self, cert_key: str) -> Stored | None:
        """See :meth:`ssl_cert_server.renewal.worker.Renewables.find`."""

    async def managed(self, cert_key: str) -> Certificate | None:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.managed`."""

    async def take_out(self, cert_key: str, seen: Stored | None, *queues: str) -> bool:
        """See :meth:`ssl_cert_server.renewal.stored.StoredCertificates.take_out`."""


class ExpiryWorker:
    """Gives each warning once for all instances, daily and more often near the end, until there is a successor."""

    def __init__(
        self,
        plan: RenewalPlan,
        certificates: Watched,
        storage: Storage,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._certificates = certificates
        self._storage = storage
        self._clock = clock
        self._worker = DueWorker(
            storage,
            clock,
            EXPIRIES,
            self._work,
            marks=plan.marks,
            sooner=plan.sooner[EXPIRIES],
            side_by_side=_SIDE_BY_SIDE,
        )

    async def run(self) -> None:
        """Warn of what is due, for ever."""
        await self._worker.run()

    async def _work(self, entry: Due) -> None:
        """Look after one; where even its next time can't be kept, it comes up again when the claim lapses."""
        try:
            await self._look_after(entry)
        except CertServerError as error:
            _log.warning("renewal.expiry_unknown", cert_key=_cert_key(entry), reason=str(error))
            await self._try_later(entry)
        except Exception:  # noqa: BLE001 - a bug met by one certificate must not stop the others
            _log.exception("renewal.expiry_crashed", cert_key=_cert_key(entry))
            await self._try_later(entry)

    async def _look_after(self, entry: Due) -> None:
        now = self._clock.now()
        try:
            found = await (self._of_managed if entry.key.startswith(_MANAGED) else self._of_issued)(entry)
        except NotPermitted:
            # By this configuration nobody is served it, so nobody will miss it. It is kept in mind all the same: other
            # instances may have another configuration, and this one at its next start.
            await self._go_on(entry.key, entry.rank, None)
            return
        if found is None:
            await self._take_out(entry.key, None)
        elif now > found.not_after + GIVEN_UP_AFTER:
            await self._take_out(entry.key, found.stored)
        elif now < found.begins:  # it was replaced, and whoever did that could not say so
            await self._plan.warn_at(entry.key, found.begins, found.not_after)
        else:
            _log.error(
                "renewal.expiring",
                cert_key=_cert_key(entry),
                days_left=round((found.not_after - now) / 86_400, 1) + 0.0,  # no -0.0
                remedy=found.remedy,
            )
            await self._go_on(entry.key, found.not_after, found.stored)

    async def _of_issued(self, entry: Due) -> _Expiry | None:
        stored = await self._certificates.find(entry.key)
        if stored is None:
            return None
        certificate, remedy = stored.certificate, f"ssl-cert-server why {shlex.quote(stored.subject.names[0])}"
        return _Expiry(self._plan.expiring_from(certificate), certificate.not_after, remedy, stored)

    async def _of_managed(self, entry: Due) -> _Expiry:
        cert_key, remedy = _cert_key(entry), "put its successor there"
        certificate = await self._certificates.managed(cert_key)
        if certificate is None:  # the last good one is served on, which is the one that was scheduled
            return _Expiry(0.0, entry.rank, remedy)
        return _Expiry(_managed_from(certificate), certificate.not_after, remedy)

    async def _go_on(self, key: str, not_after: float, stored: Stored | None) -> None:
        again = warned_again(self._clock.now(), not_after)
        if again is None:
            await self._take_out(key, stored)
        else:
            await self._plan.warn_at(key, again, not_after)

    async def _take_out(self, key: str, stored: Stored | None) -> None:
        if key.startswith(_MANAGED):
            await self._storage.unschedule(EXPIRIES, [key])
        else:
            await self._certificates.take_out(key, stored, EXPIRIES)

    async def _try_later(self, entry: Due) -> None:
        with suppress(StorageError):
            await self._plan.put_off(entry, _AFTER_ERROR, EXPIRIES)


class ManagedExpiries:
    """Schedules warnings of the managed certificates that are in use.

    ``in_use`` gives them by ``cert_key``. They are read when they are first asked for, so they are looked at now and
    then; that also mends an index that was lost, and what was planned by a wrong clock.
    """

    def __init__(
        self, in_use: Callable[[], Mapping[str, Certificate]], plan: RenewalPlan, storage: Storage, clock: Clock
    ) -> None:
        self._in_use = in_use
        self._plan = plan
        self._storage = storage
        self._clock = clock
        self._mending = Mending(plan, storage, clock)

    async def run(self) -> None:
        """Look every hour, for ever."""
        while True:
            for cert_key, certificate in self._in_use().items():
                try:
                    await self._look_after(cert_key, certificate)
                except StorageError as error:
                    _log.warning("renewal.not_scheduled", cert_key=cert_key, reason=str(error))
            await self._clock.sleep(_LOOK_EVERY * (1 + self._clock.random() / 10))

    async def _look_after(self, cert_key: str, certificate: Certificate) -> None:
        if self._clock.now() >= certificate.not_after:
            return  # that was told
        key, begins = _MANAGED + cert_key, _managed_from(certificate)
        entry = await self._storage.scheduled(EXPIRIES, key)
        if not self._mending.warns_in_time(entry, certificate, begins):
            await self._plan.warn(key, certificate, begins)


def _cert_key(entry: Due) -> str:
    return entry.key.removeprefix(_MANAGED)


def _managed_from(certificate: Certificate) -> float:
    return expiring_from(certificate.not_before, certificate.not_after)
