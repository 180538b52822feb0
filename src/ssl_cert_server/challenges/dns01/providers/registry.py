"""From a provider's kind and options to the provider.

dns-lexicon is imported where it is needed only: with what it brings along it would be nearly a tenth of every
command's start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ssl_cert_server.challenges.dns01.provider import DnsProvider
from ssl_cert_server.challenges.dns01.providers import acme_dns, httpreq, program, rfc2136
from ssl_cert_server.challenges.dns01.providers.options import Option, explain_unknown, problems_in, resolve_secrets
from ssl_cert_server.challenges.dns01.providers.zone import FindZone
from ssl_cert_server.errors import StartError

_LEXICON = "lexicon:"

_Make = Callable[[Mapping[str, str], FindZone], DnsProvider]

_KINDS: Mapping[str, tuple[Sequence[Option], _Make]] = {
    "rfc2136": (rfc2136.OPTIONS, lambda options, find_zone: rfc2136.Rfc2136Provider(options, find_zone)),
    "exec": (program.OPTIONS, lambda options, _: program.ProgramProvider(options)),
    "httpreq": (httpreq.OPTIONS, lambda options, _: httpreq.HttpreqProvider(options)),
    "acme-dns": (acme_dns.OPTIONS, lambda options, _: acme_dns.AcmeDnsProvider(options)),
}


def check_kind(kind: str) -> str | None:
    """Say what is wrong with a kind: ``lexicon:NAME``, ``rfc2136``, ``exec``, ``httpreq`` or ``acme-dns``."""
    if kind in _KINDS:
        return None
    from ssl_cert_server.challenges.dns01.providers import catalogue

    if kind.startswith(_LEXICON):
        return catalogue.explain_provider(kind.removeprefix(_LEXICON))
    if kind in catalogue.provider_names():
        return f"{kind}: unknown provider; did you mean {_LEXICON}{kind}?"
    return explain_unknown("provider", kind, [*_KINDS, f"{_LEXICON}NAME"])


def check_options(kind: str, options: Mapping[str, str]) -> list[str]:
    """Give everything that is wrong with a provider as it is configured, one sentence each.

    Nothing is sent, and no secret's file or variable is read: that :func:`make_provider` does.
    """
    wrong = check_kind(kind)
    return [wrong] if wrong else problems_in(_known(kind), options)


def make_provider(kind: str, options: Mapping[str, str], find_zone: FindZone) -> DnsProvider:
    """Make a provider of a kind. ``find_zone`` finds the zone of a record where the options name none.

    :raises StartError: with everything that is wrong with the kind, its options, and their files and variables.
    """
    wrong = check_kind(kind)
    if wrong:
        raise StartError(f"dns-01 provider {wrong}")
    try:
        values = resolve_secrets(_known(kind), options)
    except StartError as error:
        raise StartError(f"dns-01 provider {kind}: {error}") from error
    if kind in _KINDS:
        return _KINDS[kind][1](values, find_zone)
    from ssl_cert_server.challenges.dns01.providers.lexicon import LexiconProvider

    return LexiconProvider(kind.removeprefix(_LEXICON), values, find_zone)


def _known(kind: str) -> Sequence[Option]:
    if kind in _KINDS:
        return _KINDS[kind][0]
    from ssl_cert_server.challenges.dns01.providers import catalogue

    return catalogue.provider_options(kind.removeprefix(_LEXICON))
