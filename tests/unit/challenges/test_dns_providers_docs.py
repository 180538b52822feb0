"""docs/dns-providers.md against the code: every provider, every option."""

from __future__ import annotations

import re
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
    usable, others = section.rpartition("```\n")[2].strip().split("\n\n")
    names = catalogue.provider_names()
    assert re.findall(r"`(\w+)`", usable) == [name for name in names if not catalogue.explain_provider(name)]
    assert re.findall(r"`(\w+)`", others) == [name for name in names if catalogue.explain_provider(name)]
