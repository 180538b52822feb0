"""A CA for all tests of a module, which tells the orders of one name from another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.orders.scene import Ca, Scene
from tests.support.fault_proxy import FaultProxy
from tests.support.pebble import Pebble
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ca]:
    folder, port = tmp_path_factory.mktemp("ca"), free_port()
    with (
        Pebble(folder / "pebble", http_port=port, nonce_reject=0, retry_after=0) as pebble,
        FaultProxy(folder / "proxy", pebble) as proxy,
    ):
        yield Ca(pebble, proxy, port)


@pytest.fixture
def scene(running: Scene) -> Iterator[Scene]:
    """The module's ``running`` server, which goes through one fault after the other without a restart."""
    running.begin_anew()
    yield running
    running.end()
