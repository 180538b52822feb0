"""What an operator writes for a DNS provider, and what is said about mistakes in it."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from ssl_cert_server.challenges.dns01.providers import catalogue
from ssl_cert_server.challenges.dns01.providers.acme_dns import AcmeDnsProvider
from ssl_cert_server.challenges.dns01.providers.catalogue import provider_names, provider_options, typed_options
from ssl_cert_server.challenges.dns01.providers.httpreq import HttpreqProvider
from ssl_cert_server.challenges.dns01.providers.lexicon import LexiconProvider
from ssl_cert_server.challenges.dns01.providers.options import MAX_FILE, Option, problems_in, resolve_secrets
from ssl_cert_server.challenges.dns01.providers.program import ProgramProvider
from ssl_cert_server.challenges.dns01.providers.registry import check_options, make_provider
from ssl_cert_server.challenges.dns01.providers.rfc2136 import Rfc2136Provider
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.errors import ConfigError, StartError
from tests.support.leaks import told_by

ROOT = Path(__file__).parents[3]
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
RFC2136 = {"server": "192.0.2.1:53", "tsig_name": "key", "tsig_secret": SECRET}
ACME_DNS = {"server": "https://d.test", "username": "u", "password": SECRET, "subdomain": "s"}


async def no_zone(name: str) -> str:
    raise AssertionError(f"nobody asks for the zone of {name}")


@pytest.mark.parametrize(
    ("kind", "options", "made"),
    [
        ("rfc2136", RFC2136, Rfc2136Provider),
        ("exec", {"command": "/bin/sh -c true"}, ProgramProvider),
        ("httpreq", {"endpoint": "https://d.test"}, HttpreqProvider),
        ("acme-dns", ACME_DNS, AcmeDnsProvider),
        ("lexicon:cloudflare", {"auth_token": SECRET, "ttl": "120", "zone": "example.com"}, LexiconProvider),
    ],
)
def test_each_kind_is_made_from_good_options(kind: str, options: dict[str, str], made: type) -> None:
    assert check_options(kind, options) == []
    provider = make_provider(kind, options, no_zone)
    assert isinstance(provider, made)
    assert SECRET not in repr(provider)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lexicon:clodflare", "clodflare: unknown dns-lexicon provider; did you mean cloudflare?"),
        ("cloudflare", "cloudflare: unknown provider; did you mean lexicon:cloudflare?"),
        ("rfc2163", "rfc2163: unknown provider; did you mean rfc2136?"),
        ("none", "none: unknown provider; there are rfc2136, exec, httpreq, acme-dns, lexicon:NAME"),
        ("lexicon:auto", "lexicon:auto asks nslookup which provider to use; name the provider instead"),
        ("lexicon:localzone", "lexicon:localzone edits a zone file"),
    ],
)
def test_unknown_kinds_are_told_with_the_nearest(kind: str, said: str) -> None:
    problems = check_options(kind, {"whatever": "x"})
    assert len(problems) == 1
    assert problems[0].startswith(said)
    with pytest.raises(StartError) as raised:
        make_provider(kind, {}, no_zone)
    assert said in str(raised.value)


@pytest.fixture(params=["gransy", "oci", "qcloud", "route53", "softlayer"])
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider that needs packages of its own, which are not there, whatever is installed here."""
    name = str(request.param)
    monkeypatch.setattr(catalogue, "provider_names", lambda: {**provider_names(), name: False})
    return name


def test_a_provider_whose_packages_are_missing_says_what_to_run(lacking: str) -> None:
    said = (
        f"lexicon:{lacking} needs more packages than are installed; "
        f"run {sys.executable} -m pip install 'dns-lexicon[{lacking}]'"
    )
    assert check_options(f"lexicon:{lacking}", {"whatever": "x"}) == [said]
    with pytest.raises(StartError, match=f"^{re.escape(f'dns-01 provider {said}')}$"):
        make_provider(f"lexicon:{lacking}", {}, no_zone)
    with pytest.raises(ConfigError) as raised:
        parse_config(f"challenges: {{dns01: {{zones: [{{zone: a.example, provider: 'lexicon:{lacking}'}}]}}}}", "c")
    (problem,) = raised.value.problems
    assert (problem.path, problem.message) == ("challenges.dns01.zones[0].provider", said)


def test_the_line_to_run_can_be_pasted_into_a_shell(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/my venv/bin/python")
    (said,) = check_options(f"lexicon:{lacking}", {})
    command = said.partition("; run ")[2]
    assert shlex.split(command) == ["/opt/my venv/bin/python", "-m", "pip", "install", f"dns-lexicon[{lacking}]"]


def test_every_provider_that_needs_packages_has_an_extra_of_ours_and_they_are_locked() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    theirs = distribution("dns-lexicon").metadata.get_all("Provides-Extra") or []
    names = [name for name in theirs if name in provider_names()]
    every = extras.pop("dns-all")
    assert {name: [f"dns-lexicon[{name}]"] for name in names} == {name: _bare(extras[name]) for name in extras}
    assert _bare(every) == ["dns-lexicon[full]"]
    dns, usual = _pinned("requirements-dns.lock"), _pinned("requirements.lock")
    assert dns.items() >= usual.items()
    assert dns.keys() - usual.keys() >= {"boto3", "oci", "softlayer", "tencentcloud-sdk-python", "zeep"}


def _bare(requirements: list[str]) -> list[str]:
    return [requirement.partition(">=")[0] for requirement in requirements]


def _pinned(lock: str) -> dict[str, str]:
    """The versions of a lock by name, with the condition where there is one."""
    return dict(re.findall(r"^([\w-]+)==(.+?) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def test_every_other_provider_of_lexicon_has_options_and_no_twin_of_ours() -> None:
    available = [name for name, there in provider_names().items() if there]
    assert len(available) > 70
    for name in available:
        own = [option.name for option in provider_options(name)]
        assert own[:2] == ["zone", "ttl"]
        assert len(own) == len(set(own)) > 2, name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, ["server: is missing; give it, or server_file or server_env"]),
        ({"tsig_sekret": "x"}, ["tsig_sekret: unknown option; did you mean tsig_secret?"]),
        ({"tsig_secret": SECRET, "tsig_secret_env": "X"}, ["tsig_secret: give only one of tsig_secret, tsig_secret_e"]),
        ({"tsig_secret": "not base64"}, ["tsig_secret: must be base64, as tsig-keygen prints it"]),
        ({"tsig_secret": ""}, ["tsig_secret: must not be empty"]),
        ({"tsig_secret_file": ""}, ["tsig_secret_file: must not be empty"]),
        ({"tsig_name": "a..b"}, ["tsig_name: must be a key's name"]),
        ({"tsig_algorithm": "md5"}, ["tsig_algorithm: must be one of hmac-sha224"]),
        ({"ttl": "0"}, ["ttl: must be a whole number from 1 to 86400"]),
        ({"ttl": "1e2", "protocol": "tls"}, ["ttl: must be", "protocol: must be one of tcp, udp"]),
        *(({"server": server}, ["server: must be host:port"]) for server in ("a b", ":53", "a:0", "a:x", "[::1]53")),
    ],
)
def test_every_mistake_is_told_at_once(options: dict[str, str], said: list[str]) -> None:
    problems = check_options("rfc2136", options)
    for words in said:
        assert any(problem.startswith(words) for problem in problems), problems
    assert not any("not base64" in problem for problem in problems)


@pytest.mark.parametrize("server", ["ns1.example.com", "ns1.example.com:5353", "[2001:db8::1]:53", "2001:db8::1"])
def test_servers(server: str) -> None:
    assert check_options("rfc2136", {**RFC2136, "server": server}) == []


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://d.test/path/", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://[::1]:80", True),
        ("http://d.test", False),
        ("https://user:pass@d.test", False),
        ("https://d.test/?token=x", False),
        ("https://d.test:port", False),
        ("ftp://d.test", False),
        ("d.test", False),
    ],
)
def test_urls_are_https_unless_they_stay_on_this_machine(url: str, good: bool) -> None:
    for kind, options in (("httpreq", {"endpoint": url}), ("acme-dns", {**ACME_DNS, "server": url})):
        assert (check_options(kind, options) == []) is good


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("update-dns", "must begin with the absolute path of a program"),
        ("/no/such/program", "/no/such/program is no program that can be run here"),
        ("/bin/sh 'open", "its quotes don't match"),
        (" ", "must begin with the absolute path of a program"),
    ],
)
def test_commands(command: str, said: str) -> None:
    assert check_options("exec", {"command": command}) == [f"command: {said}"]


def test_commands_that_may_not_be_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "file"):
        (tmp_path / "file").touch(0o644)
        assert check_options("exec", {"command": str(path)}) == [f"command: {path} is no program that can be run here"]


def test_lexicons_own_options_come_before_our_forms() -> None:
    known = [Option("auth_key_file"), Option("auth_key_content")]
    assert problems_in(known, {"auth_key_file": "/key.pem"}) == []
    assert resolve_secrets(known, {"auth_key_file": "/key.pem"}) == {"auth_key_file": "/key.pem"}


def test_lexicons_options_get_the_types_and_defaults_of_its_command_line() -> None:
    assert typed_options("namecheap", {"auth_token": "t", "auth_sandbox": "yes"}) == {
        "auth_token": "t",
        "auth_sandbox": True,
        "auth_client_ip": "127.0.0.1",
    }
    assert typed_options("namecheap", {"auth_sandbox": "no"})["auth_sandbox"] is False
    assert typed_options("rackspace", {"sleep_time": "0.5"})["sleep_time"] == 0.5
    assert check_options("lexicon:rackspace", {"sleep_time": "long"}) == ["sleep_time: must be a number"]
    assert check_options("lexicon:namecheap", {"auth_sandbox": "maybe"}) != []
    assert check_options("lexicon:ovh", {"auth_entrypoint": "ovh-mars"}) != []


def test_secrets_come_from_files_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"\n {SECRET} \n")
    monkeypatch.setenv("DNS_KEY_NAME", "key")
    known = [Option("a"), Option("b"), Option("c")]
    options = {"a_file": str(tmp_path / "secret"), "b_env": "DNS_KEY_NAME", "c": "as it is"}
    assert resolve_secrets(known, options) == {"a": SECRET, "b": "key", "c": "as it is"}


def test_files_and_variables_are_read_when_the_provider_is_made_only(tmp_path: Path) -> None:
    options = {**RFC2136, "tsig_secret_file": str(tmp_path / "later")}
    del options["tsig_secret"]
    assert check_options("rfc2136", options) == []
    with pytest.raises(StartError, match=r"rfc2136: tsig_secret_file: the file .*/later can't be read: no such file"):
        make_provider("rfc2136", options, no_zone)
    (tmp_path / "later").write_text(SECRET)
    make_provider("rfc2136", options, no_zone)


def test_bad_files_and_variables_are_named_and_never_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    contents = {"empty": b" \n", "long": b"x" * (MAX_FILE + 1), "binary": b"hidden\xff\xfe"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    known = [Option(name) for name in ("env", "empty", "long", "binary", "folder", "good")]
    options = {f"{name}_file": str(tmp_path / name) for name in contents}
    options |= {"folder_file": str(tmp_path), "env_env": "NOT_THERE", "good": SECRET}
    with pytest.raises(StartError) as raised:
        resolve_secrets(known, options)
    for words in (
        "env_env: the environment variable NOT_THERE is not set",
        f"empty_file: the file {tmp_path}/empty is empty",
        f"long_file: the file {tmp_path}/long is longer than 65536 bytes",
        f"binary_file: the file {tmp_path}/binary is no UTF-8 text",
        f"folder_file: the file {tmp_path} can't be read: is a directory",
    ):
        assert words in str(raised.value)
    assert "hidden" not in told_by(raised.value)
    assert SECRET not in told_by(raised.value)


def test_a_value_from_a_file_is_checked_too_and_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2, not base64")
    options = {"server": "192.0.2.1", "tsig_name": "k", "tsig_secret_file": str(tmp_path / "secret")}
    with pytest.raises(StartError) as raised:
        make_provider("rfc2136", options, no_zone)
    assert "tsig_secret: must be base64" in str(raised.value)
    assert "hunter2" not in told_by(raised.value)
