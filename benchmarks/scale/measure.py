"""What is measured of one server on one full storage."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import yaml
from tests.support.clock import ManualClock
from tests.support.leaves import DAY, make_certificate
from tests.support.scripted_ca import ScriptedCa
from tests.support.server import CertServer

from benchmarks.scale import stores
from ssl_cert_server.clock import SystemClock
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.renewal.plan import RENEWALS, RenewalPlan
from ssl_cert_server.renewal.stored import StoredCertificates
from ssl_cert_server.renewal.upkeep import CertificateUpkeep
from ssl_cert_server.renewal.worker import RenewalWorker
from ssl_cert_server.server.compose import policy_rules
from ssl_cert_server.server.storages import open_storage
from ssl_cert_server.service.attempts import Attempts
from ssl_cert_server.service.issuance import AcmeCertificates
from ssl_cert_server.service.name_states import NameStates
from ssl_cert_server.service.policy import Policy
from ssl_cert_server.service.turns import Turns
from ssl_cert_server.storage.base import Due, Storage

_COLD = 300
_RENEWALS = 200
_TICKS = os.sysconf("SC_CLK_TCK")
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one size: seconds to the first answer, MB of memory (at start, and with 20,000 names asked for), milliseconds
    per look-up, percent of a core while idle, and milliseconds of CPU per renewal.
    """

    first_answer: float
    memory: float
    memory_used: float
    cold: float
    hot: float
    idle: float
    renewal: float


def measure(section: dict[str, Any], count: int, folder: Path, *, idle_for: float) -> Figures:
    """Measure one size."""
    config = {"storage": section, "re_patterns": [rf"n[0-9]+\.{re.escape(stores.DOMAIN)}"]}
    dice = random.Random(count)
    server = CertServer(folder, config)
    began = time.monotonic()
    with server:
        assert server.cert(stores.name(count - 1)).status == 200
        first_answer = time.monotonic() - began
        memory = _memory(server)
        names = [stores.name(dice.randrange(count)) for _ in range(_COLD)]
        cold = statistics.median(_timed(server, name) for name in names)
        hot = statistics.median(_timed(server, names[-1]) for _ in range(_COLD))
        for number in range(min(count, 20_000)):
            server.cert(stores.name(number))
        memory_used = _memory(server)
        idle = _idle(server, idle_for)
    return Figures(
        first_answer, memory, memory_used, cold * 1000, hot * 1000, idle, asyncio.run(_renewal(config, count)) * 1000
    )


def _timed(server: CertServer, name: str) -> float:
    began = time.perf_counter()
    assert server.cert(name).status == 200
    return time.perf_counter() - began


def _memory(server: CertServer) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / _MB


def _idle(server: CertServer, seconds: float) -> float:
    before = _cpu(server)
    time.sleep(seconds)
    return 100 * (_cpu(server) - before) / seconds


def _cpu(server: CertServer) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def _renewal(settings: dict[str, Any], count: int) -> float:
    """Give the CPU seconds that one renewal takes, the CA's part left out, where so many are stored."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    config = parse_config(yaml.safe_dump(settings), "scale")
    clock = SystemClock()
    storage = open_storage(config, clock, create=True)
    done = asyncio.Semaphore(0)
    ca = ScriptedCa(ManualClock(time.time()))
    plan = RenewalPlan(storage, clock, None)
    states = NameStates(storage, clock)
    certificates = AcmeCertificates(
        storage,
        states,
        Attempts(storage, states, ca, clock, deadline=300.0),
        Turns(32, clock),
        clock,
        upkeep=CertificateUpkeep(plan, None, storage, on_stored=lambda *_: done.release()),
    )
    found = StoredCertificates(certificates, storage, Policy(policy_rules(config)))
    keys = [stores.name(number) for number in range(min(count, _RENEWALS))]
    for key in keys:
        stored = await found.find(key)
        assert stored is not None
        await _make_old(storage, key)
    await storage.schedule(RENEWALS, [Due(key, time.time() - 1, 0.0) for key in keys])
    worker = asyncio.create_task(RenewalWorker(plan, found, storage, clock).run())
    began = time.process_time()
    for _ in keys:
        await asyncio.wait_for(done.acquire(), 60)
    spent = time.process_time() - began
    worker.cancel()
    await asyncio.wait([worker])
    await certificates.close()
    await storage.close()
    return spent / len(keys)


async def _make_old(storage: Storage, key: str) -> None:
    now = time.time()
    await storage.put(key, make_certificate(key, start=now - 80 * DAY, end=now + 10 * DAY).stored)
