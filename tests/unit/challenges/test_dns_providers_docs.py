"""docs/dns-providers.md against the code: every provider, every option."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ssl_cert_server.challenges.dns01.providers import acme_dns, catalogue, httpreq, program, rfc2136
from ssl_cert_server.challenges.dns01.providers.options import Option

PAGE = (Path(__file__).parents[3] / "docs/dns-providers.md").read_text()
_ROW = re.compile(r"^\| `(\w+)` \| (yes|no) \|", re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rfc2136", rfc2136.OPTIONS),
        ("exec", program.OPTIONS),
        ("httpreq", httpreq.OPTIONS),
        ("acme-dns", acme_dns.OPTIONS),
    ],
)
def test_every_option_is_told_and_whether_it_is_required(kind: str, options: tuple[Option, ...]) -> None:
    section = PAGE.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    told = {name: required == "yes" for name, required in _ROW.findall(section)}
    assert told == {option.name: option.required for option in options}


def test_every_provider_of_lexicons_is_told() -> None:
    section = PAGE.partition("\n## lexicon:NAME\n")[2].partition("\n## ")[0]
    usable, others = section.partition("```\n\n")[2].split("\n\n")[:2]
    extras = distribution("dns-lexicon").metadata.get_all("Provides-Extra") or []
    names = catalogue.provider_names()
    assert re.findall(r"`(\w+)`", usable) == [name for name in names if name not in extras]
    assert re.findall(r"`(\w+)`", others.partition(" need ")[0]) == [name for name in names if name in extras]
