"""Which rule answers a name: pure, and settled once at the start."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ssl_cert_server.errors import InvalidName, NotPermitted
from ssl_cert_server.model import KeyFamily, Permission, Subject
from ssl_cert_server.pki.names import is_ip, normalize_identifier
from ssl_cert_server.service.patterns import PatternSet

MAX_LABELS = 10
"""Labels that a name which a pattern or ``ask`` permits may have: crawlers make up endlessly long ones."""

_RSA_SUFFIX = "+rsa"


class Source(enum.Enum):
    """Where the certificate for a name comes from."""

    MANAGED = "managed"
    ACME = "acme"
    LOCAL_CA = "local_ca"
    SELF_SIGNED = "self_signed"


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule that answers a name, and what for. ``otherwise`` answers where ``ask`` refuses."""

    source: Source
    subject: Subject = field(default_factory=Subject)
    otherwise: Decision | None = None


@dataclass(frozen=True, slots=True)
class SelfSignedRule:
    """The self-signed fallback; with ``check_sni`` it answers only names that hold a dot."""

    cert_key: str
    check_sni: bool = False


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What the operator permitted.

    ``managed`` are (pattern, cert_key) pairs; patterns are RE2, for whole names. ``domains`` may hold IP addresses,
    ``wildcards`` start with ``*.``. ``families`` are the kinds of key that CAs issue for, the usual one first. With
    ``ask`` any other name may be issued for, too, once that permitted it.
    """

    managed: Sequence[tuple[str, str]] = ()
    domains: Iterable[str] = ()
    wildcards: Iterable[str] = ()
    patterns: Sequence[str] = ()
    families: Sequence[KeyFamily] = (KeyFamily.ECDSA,)
    local_ca_patterns: Sequence[str] = ()
    ask: bool = False
    max_labels: int = MAX_LABELS
    self_signed: SelfSignedRule | None = None


class Policy:
    """Decides for normalised names, in a fixed order.

    Managed; ACME by domain, wildcard or pattern; the local CA; ACME if ``ask`` permits it; self-signed.
    """

    def __init__(self, rules: PolicyRules) -> None:
        self._managed_keys = [cert_key for _, cert_key in rules.managed]
        self._managed = PatternSet([pattern for pattern, _ in rules.managed])
        self._domains = frozenset(rules.domains)
        self._wildcards = frozenset(rules.wildcards)
        self._patterns = PatternSet(rules.patterns)
        self._families = tuple(rules.families)
        self._local_ca = PatternSet(rules.local_ca_patterns)
        self._ask = rules.ask
        self._max_labels = rules.max_labels
        self._self_signed = rules.self_signed
        self._foreign_keys = set(self._managed_keys)
        if rules.self_signed:
            self._foreign_keys.add(rules.self_signed.cert_key)

    @property
    def families(self) -> tuple[KeyFamily, ...]:
        """The kinds of key that names which CAs issue for have certificates of."""
        return self._families

    @property
    def usual_family(self) -> KeyFamily:
        """What a client gets that asks for none."""
        return self._families[0]

    def is_managed(self, cert_key: str) -> bool:
        """Tell whether an operator keeps a certificate under ``cert_key``."""
        return cert_key in self._managed_keys

    def decide(self, name: str, family: KeyFamily | None = None) -> Decision:
        """Give the rule that answers ``name``, with a key of ``family`` where one is wanted.

        :raises NotPermitted: none does.
        """
        managed = self._managed.first(name)
        if managed is not None:
            return Decision(Source.MANAGED, Subject(self._managed_keys[managed]))
        permission = self._permission(name)
        if permission is not None:
            return Decision(Source.ACME, self._subject(name, self._issued(name, family), permission))
        if self._local_ca.first(name) is not None:
            return Decision(Source.LOCAL_CA)
        otherwise = self._fallback(name)
        if self._ask and not is_ip(name) and "." in name and not self._too_deep(name):
            subject = self._subject(name, self._issued(name, family), Permission.ASK)
            return Decision(Source.ACME, subject, otherwise)
        if otherwise is None:
            raise NotPermitted(f"{name} is not permitted here")
        return otherwise

    def decide_for_operator(self, name: str, family: KeyFamily | None = None) -> Decision:
        """Do as :meth:`decide`; ``name`` may also be one of the wildcards, which nobody but operators says.

        :raises NotPermitted: no rule answers it.
        """
        if not name.startswith("*."):
            return self.decide(name, family)
        if name not in self._wildcards:
            raise NotPermitted(f"{name} is none of wildcards")
        return Decision(Source.ACME, self._wildcard_subject(name, self._issued(name, family)))

    def listed(self) -> list[Subject]:
        """Give what is to be issued for every name that is listed, each certificate once."""
        found = [self._wildcard_subject(wildcard, family) for wildcard in self._wildcards for family in self._families]
        for name in self._domains:
            decisions = [self.decide(name, family) for family in self._families]
            found += [decision.subject for decision in decisions if decision.source is Source.ACME]
        return [*dict.fromkeys(found)]

    def stored_subject(self, cert_key: str) -> Subject | None:
        """Give what the ACME certificate stored under ``cert_key`` is for, or None where there is no such rule."""
        if cert_key in self._foreign_keys:
            return None
        family = KeyFamily.RSA if cert_key.endswith(_RSA_SUFFIX) else KeyFamily.ECDSA
        name = cert_key.removesuffix(_RSA_SUFFIX)
        if family not in self._families:
            return None
        if name in self._wildcards:
            return self._wildcard_subject(name, family)
        try:
            if normalize_identifier(name) != name:
                return None
            decision = self.decide(name, family)
        except (InvalidName, NotPermitted):
            return None
        return decision.subject if decision.source is Source.ACME and decision.subject.cert_key == cert_key else None

    def _permission(self, name: str) -> Permission | None:
        if name in self._domains or _wildcard_over(name) in self._wildcards:
            return Permission.LISTED
        if not is_ip(name) and self._patterns.first(name) is not None and not self._too_deep(name):
            return Permission.PATTERN
        return None

    def _subject(self, name: str, family: KeyFamily, permission: Permission) -> Subject:
        """Settle the certificate: a configured wildcard's first, in which its apex stands, too, where permitted."""
        for wildcard in (f"*.{name}", _wildcard_over(name)):
            if wildcard in self._wildcards and permission is not Permission.ASK:
                return self._wildcard_subject(wildcard, family)
        return Subject(storage_key(name, family), (name,), family, permission)

    def _wildcard_subject(self, wildcard: str, family: KeyFamily) -> Subject:
        apex = wildcard.removeprefix("*.")
        names = (wildcard, apex) if self._permission_of_apex(apex) else (wildcard,)
        return Subject(storage_key(wildcard, family), names, family)

    def _permission_of_apex(self, apex: str) -> bool:
        return self._managed.first(apex) is None and self._permission(apex) is not None

    def _issued(self, name: str, family: KeyFamily | None) -> KeyFamily:
        wanted = family or self.usual_family
        if wanted not in self._families:
            raise NotPermitted(f"{name}: certificates with {wanted.upper()} keys are not issued here")
        return wanted

    def _too_deep(self, name: str) -> bool:
        return name.count(".") >= self._max_labels

    def _fallback(self, name: str) -> Decision | None:
        if self._self_signed is None or is_ip(name) or ("." not in name and self._self_signed.check_sni):
            return None
        return Decision(Source.SELF_SIGNED, Subject(self._self_signed.cert_key))


def storage_key(name: str, family: KeyFamily) -> str:
    """Give where an ACME certificate is stored: as the predecessor did, ``+rsa`` behind the name of an RSA one."""
    return name + _RSA_SUFFIX if family is KeyFamily.RSA else name


def _wildcard_over(name: str) -> str:
    return f"*.{name.partition('.')[2]}"
