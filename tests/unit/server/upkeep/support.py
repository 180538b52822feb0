"""A configuration, and storage that has something in every folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ssl_cert_server.acme.jose import AccountKey
from ssl_cert_server.issuers.account import AccountPlace
from ssl_cert_server.pki.signing import Validity, make_root
from ssl_cert_server.pki.x509 import parse_certificate
from ssl_cert_server.service.budget.buckets import LimitKind, Scope
from ssl_cert_server.service.records import IssuedRecord, save_record
from ssl_cert_server.storage.base import Due, Storage
from ssl_cert_server.storage.memory import MemoryStorage
from tests.support.certs import make_pair
from tests.support.clock import START

CA = "https://ca.example.com/dir"
ACCOUNT = "https://ca.example.com/account/1"
CONFIG = rf"""
acme: [{{directory_url: {CA}}}]
re_patterns: ['.+\.example']
domains: ["192.0.2.1"]
managed: [{{pattern: 'managed\.test', cert_key: managed}}]
self_signed: {{enable: true}}
"""
UNTIL = START + 90 * 86_400
NAMES = ["a.example", "b.example", "192.0.2.1"]


async def fill(storage: Storage) -> None:
    """Put something of every kind into storage."""
    place = AccountPlace.at(CA)
    for key in ("acme_account+key", place.key, place.next_key):
        await storage.put(key, AccountKey.generate().to_pem())
    await storage.put(place.url, json.dumps({"url": ACCOUNT, "directory_url": CA}).encode())
    root = make_root("a root", Validity.days_from(START, 3650))
    await storage.put("_local_ca/root", root.stored)
    for name in NAMES[:2]:
        pair = make_pair([name], start=START, end=UNTIL)
        await storage.put(name, pair.stored)
        await save_record(storage, name, IssuedRecord(parse_certificate(pair.stored).fingerprint))
        await storage.put(f"_state/{name}", b"{}")
    await storage.put("managed", make_pair(["managed.test"]).stored)
    await storage.put("self_signed", make_pair().stored)
    for kind in LimitKind:
        await storage.put(Scope(kind, "a.example").key(f"{CA} {ACCOUNT}"), b"{}")
    await storage.put(Scope(LimitKind.NEW_ORDERS, "x").key("on_demand"), b"{}")
    for folder in ("http-01", "tls-alpn-01", "dns-01"):
        await storage.put(f"_challenges/{folder}/x", b"{}")
    await storage.schedule("renewal", [Due(name, START + 60 * 86_400, UNTIL) for name in NAMES[:2]])
    await storage.schedule("advice", [Due(name, START + 3600) for name in NAMES[:2]])
    await storage.schedule("expiry", [Due(name, START + 80 * 86_400, UNTIL) for name in NAMES[:2]])
    await storage.schedule("parked", [Due("192.0.2.1", 0.0, START)])


def everything(storage: MemoryStorage) -> dict[str, bytes]:
    """Give all that is kept, as it lies there."""
    return dict(storage._values)


def note_calls(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, *methods: str) -> list[str]:
    """Give a list to which the names of these methods are added as they are called."""
    calls: list[str] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append(name)
            return method(*args)

        return call

    for name in methods:
        monkeypatch.setattr(storage, name, noting(name, getattr(storage, name)))
    return calls
