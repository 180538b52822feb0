"""Verifying: a line for everything that is wrong, and none for what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_cert_server.config.schema import Config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.server.compose import renewal_plan
from ssl_cert_server.server.upkeep.kept import Kept
from ssl_cert_server.server.upkeep.stored import Rules
from ssl_cert_server.server.upkeep.verify import Verification
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.directory import DirectoryStorage
from ssl_cert_server.storage.seal import Sealer, SealKey
from ssl_cert_server.storage.sealed import SealedStorage
from tests.support.certs import DAY, make_pair
from tests.support.clock import START, ManualClock
from tests.support.faulty_storage import FaultyStorage
from tests.support.irregular import IRREGULAR
from tests.support.ocsp_ca import OcspCa
from tests.unit.server.upkeep.support import NAMES, UNTIL, everything, fill

REBUILD = "`ssl-cert-server storage rebuild-index`"


class Verify:
    def __init__(self, config: Config, rules: Rules, clock: ManualClock) -> None:
        self.steps = 0
        self._config, self._rules, self._clock = config, rules, clock

    async def __call__(self, storage: Storage) -> list[str]:
        return (await self.counts(storage))[2]

    async def counts(self, storage: Storage) -> tuple[int, int, list[str]]:
        """Verify, and give how many values and certificates there are, and what is wrong."""
        found: list[str] = []
        plan = renewal_plan(self._config, storage, self._clock)
        work = Verification(storage, plan, Kept(self._config), self._rules, self._clock, found.append, self._step)
        await work.run()
        assert work.findings == len(found)
        return work.values, work.certificates, found

    def _step(self) -> None:
        self.steps += 1


@pytest.fixture
def verify(config: Config, rules: Rules, clock: ManualClock) -> Verify:
    return Verify(config, rules, clock)


async def scheduled(storage: Storage, *keys: str) -> None:
    await storage.schedule("renewal", [Due(key, START + DAY) for key in keys])


async def test_storage_in_order_has_no_findings(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    assert await verify(storage) == []
    assert verify.steps == len(everything(storage))


async def test_what_a_running_server_writes_as_a_probe_is_no_finding(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    await storage.schedule("renewal", [Due("~probe", 4e9)])
    assert await verify(storage) == []
    for key in ("~probe", "_state/~probe", "_issued/~probe"):
        await storage.put(key, b"{}")
    assert await verify(storage) == []


async def test_sealed_storage_in_order_has_none_either(verify: Verify, storage: FaultyStorage) -> None:
    sealed = SealedStorage(storage, Sealer([SealKey(bytes(32))]))
    await fill(sealed)
    assert await verify(sealed) == []


@pytest.mark.parametrize(
    ("key", "value", "finding"),
    [
        ("a.example", b"", "a.example: no private key in the PEM data"),
        ("a.example", make_pair(["b.example"]).stored, "a.example: the certificate does not cover a.example"),
        (
            "a.example",
            make_pair(["a.example"]).key_pem + make_pair(["a.example"]).pem,
            "a.example: the private key does not belong to the first certificate of the chain",
        ),
        (
            "a.example",
            make_pair(["a.example"], start=START - 90 * DAY, end=START - DAY).stored,
            "a.example: the certificate is expired",
        ),
        ("managed", make_pair(start=START - 90 * DAY, end=START - DAY).stored, "managed: the certificate is expired"),
        ("self_signed", b"x", "self_signed: no private key in the PEM data"),
        ("not.permitted", make_pair(["x.y"]).stored, "not.permitted: the certificate does not cover not.permitted"),
        ("_local_ca/root", b"x", "_local_ca/root: no private key in the PEM data"),
    ],
)
async def test_what_is_wrong_with_a_certificate(
    verify: Verify, storage: FaultyStorage, key: str, value: bytes, finding: str
) -> None:
    await fill(storage)
    await storage.put(key, value)
    assert await verify(storage) == [finding]


@pytest.mark.parametrize("key", ["acme_account+key", "_accounts/ca.example.com-1.key"])
async def test_an_account_key_that_cannot_be_used(verify: Verify, storage: FaultyStorage, key: str) -> None:
    await storage.put(key, b"x")
    (finding,) = await verify(storage)
    assert finding.startswith(f"{key}: ")


async def test_certificates_of_every_sort_of_name_are_right(verify: Verify, storage: FaultyStorage) -> None:
    for key, name in {"a.example+rsa": "a.example", "*.b.test": "*.b.test", "no.rule.test": "no.rule.test"}.items():
        await storage.put(key, make_pair([name]).stored)
    await storage.put("expired.test", make_pair(["expired.test"], start=START - 90 * DAY, end=START - DAY).stored)
    assert await verify(storage) == []


async def test_a_certificate_that_nothing_renews(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    await storage.unschedule("renewal", ["a.example"])
    assert await verify(storage) == [f"a.example: nothing has it renewed; {REBUILD} mends that"]


async def test_one_that_is_only_being_issued_or_renewed_is_planned_soon(verify: Verify, storage: FaultyStorage) -> None:
    await storage.put("a.example", make_pair(["a.example"]).stored)
    await storage.schedule("renewal", [Due("a.example", START + 3600, START)])
    assert await verify(storage) == []
    await storage.schedule("renewal", [Due("a.example", START + DAY, START)])
    wrong = f"a.example: its renewal was planned for another certificate; {REBUILD} mends that"
    assert await verify(storage) == [wrong]


async def test_a_renewal_that_comes_up_too_late(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    await storage.schedule("renewal", [Due("a.example", UNTIL - DAY, UNTIL)])
    assert await verify(storage) == [f"a.example: its renewal comes up too late; {REBUILD} mends that"]


async def test_a_renewal_that_failed_may_rest_for_a_week(
    verify: Verify, storage: FaultyStorage, clock: ManualClock
) -> None:
    await fill(storage)
    clock.jump(89 * DAY)
    await storage.schedule("advice", [Due(name, clock.now()) for name in NAMES[:2]])
    at = clock.now() + 7.7 * DAY
    await storage.schedule("renewal", [Due(name, at, UNTIL) for name in NAMES[:2]])
    assert [line for line in await verify(storage) if "example: its" in line] == []


async def test_what_is_revoked_or_advised_is_due_when_that_says(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    for name, fact in {"a.example": {"revoked": True}, "b.example": {"renew_at": START + 20 * DAY}}.items():
        fingerprint = parse_certificate(await storage.get(name) or b"").fingerprint
        await save_record(storage, name, IssuedRecord(fingerprint, **fact))  # type: ignore[arg-type]
    await storage.schedule("renewal", [Due("a.example", START + DAY / 24)])
    late = f"b.example: its renewal comes up too late; {REBUILD} mends that"
    assert await verify(storage) == [late]


@pytest.mark.parametrize("at", [None, START + 95 * DAY], ids=["none", "late"])
@pytest.mark.parametrize(
    ("queue", "finding"),
    [
        ("advice", "its CA would not be asked when it wants it renewed"),
        ("ocsp", "its responder would not be asked whether it is revoked"),
    ],
)
async def test_one_that_nobody_would_be_asked_about(
    verify: Verify, storage: FaultyStorage, queue: str, finding: str, at: float | None
) -> None:
    await fill(storage)
    await storage.put("a.example", OcspCa().leaf("a.example", start=START, end=UNTIL).stored)
    await storage.schedule("ocsp", [Due("a.example", START + DAY)])
    assert await verify(storage) == []
    await storage.unschedule(queue, ["a.example"])
    if at is not None:
        await storage.schedule(queue, [Due("a.example", at)])
    assert await verify(storage) == [f"a.example: {finding}; {REBUILD} mends that"]


async def test_one_that_is_parked_is_renewed_some_time(verify: Verify, storage: FaultyStorage) -> None:
    await storage.put("a.example", make_pair(["a.example"]).stored)
    await storage.schedule("parked", [Due("a.example", 0.0)])
    assert await verify(storage) == []


async def test_a_certificate_of_which_nobody_would_be_warned(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    await storage.unschedule("expiry", ["a.example"])
    assert await verify(storage) == [
        f"a.example: nobody would be warned in time before it expires; {REBUILD} mends that"
    ]


async def test_a_certificate_that_is_only_being_issued_is_expected(verify: Verify, storage: FaultyStorage) -> None:
    await storage.schedule("renewal", [Due("new.example", START + 3600)])
    assert await verify(storage) == []


async def test_a_renewal_of_nothing(verify: Verify, storage: FaultyStorage) -> None:
    await scheduled(storage, "gone.example")
    assert await verify(storage) == [f"gone.example: to be renewed, but not stored; {REBUILD} takes it out"]


async def test_what_cannot_be_opened_or_read_is_a_finding(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    await SealedStorage(storage, Sealer([SealKey(bytes(32))])).put("_state/a.example", b"{}")
    storage.break_down("get", key="_state/b.example")
    first, second = sorted(await verify(SealedStorage(storage, Sealer())))
    assert "_state/b.example" in first
    assert second.startswith("can't open _state/a.example: it is sealed with the key")


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("key", ["a.example", "managed", "_state/a.example"])
async def test_what_stands_in_the_place_of_a_file_is_counted_and_told_once(
    verify: Verify, tmp_path: Path, clock: ManualClock, key: str, kind: str, planned: bool
) -> None:
    storage = DirectoryStorage(tmp_path / "storage", clock)
    await fill(storage)
    await storage.put(key, b"{}")
    before = (await verify.counts(storage))[:2]
    path = tmp_path / "storage" / key
    path.unlink()
    IRREGULAR[kind](path)
    if not planned:
        await storage.unschedule("renewal", ["a.example"])
    values, certificates, found = await verify.counts(storage)
    assert (values, certificates) == before
    [line] = [line for line in found if f"can't read {path}: " in line]
    assert ("Is a directory; " if kind == "a folder" else f"it is {kind}, not a regular file; ") in line
    await storage.close()


async def test_storage_that_is_gone_ends_it(verify: Verify, storage: FaultyStorage) -> None:
    for number in range(150):
        await storage.put(f"{number}.example", b"x")
    storage.break_down("get")
    with pytest.raises(StorageError):
        await verify(storage)


async def test_a_folder_that_cannot_be_listed_ends_it(verify: Verify, storage: FaultyStorage) -> None:
    await fill(storage)
    storage.break_down("list", key="_issued")
    with pytest.raises(StorageError):
        await verify(storage)
