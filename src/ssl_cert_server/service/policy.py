"""Which rule answers a name: pure, and settled once at the start."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import re2

from ssl_cert_server.errors import InvalidName, NotPermitted
from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.names import normalize_name

_MAX_PATTERN_MEMORY = 64 * 1024 * 1024


class Source(enum.Enum):
    """Where the certificate for a name comes from."""

    MANAGED = "managed"
    ACME = "acme"
    LOCAL_CA = "local_ca"
    SELF_SIGNED = "self_signed"


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule that answers a name, and the storage key of its certificate (empty where none is stored)."""

    source: Source
    cert_key: str = ""


@dataclass(frozen=True, slots=True)
class SelfSignedRule:
    """The self-signed fallback; with ``check_sni`` it answers only names that hold a dot."""

    cert_key: str
    check_sni: bool = False


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What the operator permitted. ``managed`` are (pattern, cert_key) pairs; patterns are RE2, for whole names."""

    managed: Sequence[tuple[str, str]] = ()
    domains: Iterable[str] = ()
    patterns: Sequence[str] = ()
    key_type: KeyType = KeyType.ECDSA_P256
    local_ca_patterns: Sequence[str] = ()
    self_signed: SelfSignedRule | None = None


class Policy:
    """Decides for normalised names, in a fixed order: managed, ACME, local CA, self-signed."""

    def __init__(self, rules: PolicyRules) -> None:
        self._managed_keys = [cert_key for _, cert_key in rules.managed]
        self._managed = PatternSet([pattern for pattern, _ in rules.managed])
        self._domains = frozenset(rules.domains)
        self._patterns = PatternSet(rules.patterns)
        self._acme_suffix = stored_suffix(rules.key_type)
        self._local_ca = PatternSet(rules.local_ca_patterns)
        self._self_signed = rules.self_signed
        self._foreign_keys = set(self._managed_keys)
        if rules.self_signed:
            self._foreign_keys.add(rules.self_signed.cert_key)

    def decide(self, name: str) -> Decision:
        """Give the rule that answers ``name``.

        :raises NotPermitted: none does.
        """
        managed = self._managed.first(name)
        if managed is not None:
            return Decision(Source.MANAGED, self._managed_keys[managed])
        if name in self._domains or self._patterns.first(name) is not None:
            return Decision(Source.ACME, name + self._acme_suffix)
        if self._local_ca.first(name) is not None:
            return Decision(Source.LOCAL_CA)
        if self._self_signed and ("." in name or not self._self_signed.check_sni):
            return Decision(Source.SELF_SIGNED, self._self_signed.cert_key)
        raise NotPermitted(f"{name} is not permitted here")

    def acme_name(self, cert_key: str) -> str | None:
        """Give the name whose ACME certificate is stored under ``cert_key``, or None where there is no such rule."""
        if cert_key in self._foreign_keys:
            return None
        name = cert_key.removesuffix(self._acme_suffix)
        try:
            known = normalize_name(name) == name and self.decide(name) == Decision(Source.ACME, cert_key)
        except (InvalidName, NotPermitted):
            return None
        return name if known else None


class PatternSet:
    """Many RE2 patterns matched at once against a whole name; linear in the name's length."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._set = None
        if patterns:
            options = re2.Options()
            options.max_mem = _MAX_PATTERN_MEMORY
            options.log_errors = False
            self._set = re2.Set.FullMatchSet(options)
            for pattern in patterns:
                self._set.Add(pattern)
            self._set.Compile()

    def first(self, name: str) -> int | None:
        """Give the index of the first pattern that matches the whole name."""
        if self._set is None:
            return None
        matching: list[int] | None = self._set.Match(name)
        return min(matching) if matching else None


def stored_suffix(key_type: KeyType) -> str:
    """Give what the predecessor put behind a name in storage: nothing for ECDSA, ``+rsa`` for RSA."""
    return "+rsa" if key_type is KeyType.RSA_2048 else ""
