"""Renewals whose orders can't be stored: nobody asks for them, and they are tried again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.orders.scene import KNOWN, Ca, Scene
from tests.support.fault_proxy import FaultProxy, Step
from tests.support.faults import tripwire
from tests.support.pebble import Pebble
from tests.support.ports import free_port
from tests.support.storage_faults import unwritable
from tests.support.waiting import wait_until

LIFETIME = 30
"""Seconds; the names are renewed after half of it."""

BUDGET = 20
TRIES = 2 * BUDGET
"""Renewals that fail while the fault lasts: more than the budget has room for."""

DEADLINE = 150
FASTER = "import ssl_cert_server.renewal.worker; ssl_cert_server.renewal.worker._AFTER_ERROR = 0.2"


@pytest.fixture
def renewing(tmp_path: Path) -> Iterator[Scene]:
    port = free_port()
    with (
        Pebble(tmp_path / "pebble", http_port=port, nonce_reject=0, retry_after=0, validity_seconds=LIFETIME) as pebble,
        FaultProxy(tmp_path / "proxy", pebble) as proxy,
        Scene(
            tmp_path / "server",
            Ca(pebble, proxy, port),
            changes=[FASTER],
            limits={"new_orders": f"{BUDGET}/1h"},
        ) as scene,
    ):
        yield scene


def check_renewals(scene: Scene, *, orders: int) -> None:
    """Assert that no more than so many orders are placed while a fault lasts, and that each becomes a certificate."""
    wait_until(lambda: scene.server.log.count("event=renewal.failed ") >= TRIES, DEADLINE)
    assert scene.orders <= orders
    scene.check_no_others()
    scene.end()
    wait_until(scene.is_ready)
    pebble, issued = scene.ca.pebble, scene.ca.pebble.certificate_count()
    wait_until(lambda: pebble.certificate_count() >= issued + KNOWN, DEADLINE)
    (name,) = scene.new_names(1)
    assert scene.server.cert(name).status == 200, "the budget has no room any more"
    wait_until(lambda: pebble.certificate_count() == pebble.order_count())
    assert "Traceback" not in scene.server.log


def test_no_renewal_is_ordered_while_its_order_can_not_be_stored(renewing: Scene) -> None:
    renewing.begin(unwritable(renewing.server.directory / "_state"))
    renewing.begin_anew()
    check_renewals(renewing, orders=0)


def test_renewals_whose_orders_could_not_be_stored_are_gone_on_with(renewing: Scene) -> None:
    fault = unwritable(renewing.server.directory / "_state")
    renewing.ca.proxy.script(Step.NEW_ORDER, tripwire(lambda: renewing.begin(fault), forwarding=True, answering=True))
    check_renewals(renewing, orders=KNOWN)
