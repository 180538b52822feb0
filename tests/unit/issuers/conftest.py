"""A clock that stands still, storage that breaks on demand, and a CA in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx2
import pytest

from ssl_cert_server.acme.client import AcmeClient
from ssl_cert_server.issuers.account import AcmeAccount
from tests.support.clock import AutoClock
from tests.support.fake_ca import FakeCa
from tests.support.faulty_storage import FaultyStorage


@dataclass(frozen=True, slots=True)
class Place:
    """What an instance of the server has of a CA."""

    client: AcmeClient
    account: AcmeAccount


MakePlace = Callable[[], Place]
MakeAccount = Callable[[], AcmeAccount]


@pytest.fixture
def fake_ca() -> FakeCa:
    return FakeCa()


@pytest.fixture
async def make_place(storage: FaultyStorage, fake_ca: FakeCa) -> AsyncIterator[MakePlace]:
    """Every call is another instance of the server, with the same storage and CA."""
    async with httpx2.AsyncClient(transport=fake_ca) as http:

        def make() -> Place:
            # Waiting for a lease or the CA takes no time here; leases don't lapse, as storage has the other clock.
            clock, url = AutoClock(), fake_ca.directory_url
            client = AcmeClient(url, http, clock)
            account = AcmeAccount(storage, client, clock, directory_url=url, email="admin@example.com")
            return Place(client, account)

        yield make


@pytest.fixture
def make_account(make_place: MakePlace) -> MakeAccount:
    return lambda: make_place().account
