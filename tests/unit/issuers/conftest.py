"""A clock that stands still, storage that breaks on demand, and a CA in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.issuers.account import AcmeAccount
from tests.support.clock import AutoClock
from tests.support.fake_ca import FakeCa
from tests.support.faulty_storage import FaultyStorage

MakeAccount = Callable[[], AcmeAccount]


@pytest.fixture
def fake_ca() -> FakeCa:
    return FakeCa()


@pytest.fixture
async def make_account(storage: FaultyStorage, fake_ca: FakeCa) -> AsyncIterator[MakeAccount]:
    """Every call is another instance of the server, with the same storage and CA."""
    async with httpx2.AsyncClient(transport=fake_ca) as http:

        def make() -> AcmeAccount:
            # Waiting for a lease or the CA takes no time here; leases don't lapse, as storage has the other clock.
            clock = AutoClock()
            client = AcmeClient(fake_ca.directory_url, http, clock)
            return AcmeAccount(storage, client, clock, directory_url=fake_ca.directory_url, email="admin@example.com")

        yield make
