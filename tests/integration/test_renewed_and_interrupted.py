"""A renewal that fails after its certificate was stored: every instance hands out the new certificate all the same."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.integration.conftest import StartPebble
from tests.support.server import CertServer, acme_config, changed_program
from tests.support.storage_faults import obeying_permissions, unwritable
from tests.support.waiting import wait_until

NAME = "site1.example.com"
LIFETIME = 120
"""Seconds; renewed after half of it, and what is tested has the other half."""

EARLY = LIFETIME / 4
DEADLINE = 100

SOONER = (
    "import ssl_cert_server.renewal.due_worker as due, ssl_cert_server.renewal.worker as worker",
    "due.CLAIMED_FOR, worker._AFTER_ERROR = 5.0, 2.0",
)
KILLED_BEFORE_IT_IS_ANNOUNCED = """
import os, signal
import ssl_cert_server.service.attempts as attempts
save_record = attempts.save_record
async def die(storage, cert_key, record, lease):
    if record.replaces:
        os.kill(os.getpid(), signal.SIGKILL)
    await save_record(storage, cert_key, record, lease)
attempts.save_record = die
"""


class Pair:
    """Two instances on one directory, both of which serve the name."""

    def __init__(self, folder: Path, start_pebble: StartPebble, http_port: int, *changes: str) -> None:
        self.pebble = start_pebble(http_port=http_port, validity_seconds=LIFETIME, retry_after=0)
        config = acme_config(self.pebble.directory_url, self.pebble.ca_bundle, domains=[NAME])
        self.directory = folder / "storage"
        self._stack = ExitStack()
        self.servers = [
            CertServer(
                folder / f"member-{number}",
                config,
                port=http_port if number == 0 else None,
                directory=self.directory,
                program=changed_program(*SOONER, *changes),
                within=obeying_permissions(),
            )
            for number in range(2)
        ]
        for server in self.servers:
            self._stack.enter_context(server)
        (self.old,) = {server.cert(NAME).json["fingerprint"] for server in self.servers}
        self.stored = (self.directory / NAME).read_bytes()

    def is_renewed(self) -> bool:
        return (self.directory / NAME).read_bytes() != self.stored

    def check_new_is_served(self, server: CertServer) -> None:
        wait_until(lambda: server.cert(NAME).json["fingerprint"] != self.old, LIFETIME / 4)

    def close(self) -> None:
        self._stack.close()


def test_its_record_can_not_be_written(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pair = Pair(tmp_path, start_pebble, http_port)
    try:
        with unwritable(pair.directory / "_issued"):
            wait_until(pair.is_renewed, DEADLINE)
            for server in pair.servers:
                pair.check_new_is_served(server)
        assert pair.pebble.order_count() == 2
    finally:
        pair.close()


def test_its_instance_is_killed(tmp_path: Path, start_pebble: StartPebble, http_port: int) -> None:
    pair = Pair(tmp_path, start_pebble, http_port, KILLED_BEFORE_IT_IS_ANNOUNCED)
    try:
        wait_until(pair.is_renewed, DEADLINE)
        wait_until(lambda: not all(server.process.running for server in pair.servers))
        (left,) = [server for server in pair.servers if server.process.running]
        pair.check_new_is_served(left)
        assert pair.pebble.order_count() == 2
    finally:
        pair.close()
