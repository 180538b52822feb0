"""What strangers may bring about: who is asked, what is checked, and how much there is of it."""

# No `from __future__ import annotations` here: pydantic reads the annotations.

from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator

from ssl_cert_server.config import values
from ssl_cert_server.config.addresses import Nameserver, Network, parse_nameserver, parse_network
from ssl_cert_server.config.section import RateLimit, Seconds, Section, Text

_MINUTE = 60
_MAX_LABELS = 127


class Ask(Section):
    """An endpoint of the operator's that permits names nothing else covers. Times are in seconds."""

    url: Annotated[Text, AfterValidator(values.ask_url)]
    timeout: Annotated[float, Field(gt=0, le=_MINUTE, allow_inf_nan=False)] = 2
    allowed_ttl: Seconds = 3600
    refused_ttl: Seconds = 300


class OnDemand(Section):
    """Bounds for names that strangers bring up, by a pattern or ``ask``: not for those that are listed."""

    max_labels: Annotated[int, Field(ge=1, le=_MAX_LABELS)] = 10
    issuances: RateLimit = None
    issuances_per_domain: RateLimit = None


class Dns(Section):
    """The resolvers to ask instead of the system's."""

    resolvers: tuple[Annotated[Nameserver, PlainValidator(parse_nameserver)], ...] = ()


class Preflight(Section):
    """What is looked at before a CA is asked. No ``public_ips``: where a name points to isn't looked at."""

    caa: bool = True
    public_ips: tuple[Annotated[Network, PlainValidator(parse_network)], ...] = ()
