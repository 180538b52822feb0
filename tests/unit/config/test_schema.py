"""What a configuration gives to whoever composes the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ssl_cert_server.config.addresses import ListenAddress, TcpAddress, UnixAddress
from ssl_cert_server.config.authorities import LETS_ENCRYPT, LETS_ENCRYPT_STAGING
from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.schema import Config, Managed
from tests.unit.config.support import PREDECESSOR, only_mistake, write_root


def test_without_a_file_the_local_ca_answers_names_no_public_ca_would() -> None:
    config = Config()
    assert config.local_ca.enable
    assert config.listen == (TcpAddress("127.0.0.1", 8999),)
    assert config.storage.dir_cache == Path("./secret-dir")
    assert config.permitted_domains == config.permitted_patterns == ()
    assert not config.self_signed.enable


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~", "{}", "local_ca:", "local_ca: ''", "local_ca: {}"])
def test_an_empty_file_differs_from_none_in_the_local_ca_only(text: str) -> None:
    config = parse_config(text, "c")
    assert not config.local_ca.enable
    assert config.model_copy(update={"local_ca": Config().local_ca}) == Config()


def test_the_predecessors_file_loads() -> None:
    config = parse_config(PREDECESSOR, "c")
    assert config.listen == (TcpAddress("127.0.0.1", 8999),)
    assert config.pid_file == Path("ssl-cert-server.pid")
    assert config.storage.redis.addr == "127.0.0.1:6379"
    assert config.managed == (Managed(pattern=r"abc\.example\.com", cert_key="abc.example.com"),)
    assert config.lets_encrypt.renew_before == 30
    assert config.permitted_domains == ("site1.example.com",)
    assert config.permitted_patterns == (r"api1-(\w+)\.example\.com",)
    assert [(ca.directory_url, ca.email) for ca in config.cas] == [(LETS_ENCRYPT, "a@example.com")]
    assert config.self_signed.organization == ("SSL Cert Server Self-Signed",)


def test_keys_without_a_value_count_as_left_out() -> None:
    text = """
        listen:
        managed:
        lets_encrypt: {email: , domains: ~, re_patterns: null, renew_before: ""}
        self_signed: {organization: [], cert_key: ""}
    """
    assert parse_config(text, "c") == parse_config("", "c")


def test_both_spellings_of_permitted_names_are_merged_once_each_and_normalised() -> None:
    text = """
        domains: [A.example.com, bücher.example.com]
        re_patterns: ['a+', 'b+']
        lets_encrypt: {domains: [a.example.com., c.example.com], re_patterns: ['b+', 'c+']}
    """
    config = parse_config(text, "c")
    assert config.permitted_domains == ("a.example.com", "xn--bcher-kva.example.com", "c.example.com")
    assert config.permitted_patterns == ("a+", "b+", "c+")


def test_staging_is_lets_encrypts_other_directory() -> None:
    assert parse_config("lets_encrypt: {staging: yes}", "c").cas[0].directory_url == LETS_ENCRYPT_STAGING


def test_a_configured_ca_takes_the_place_of_lets_encrypt(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    write_root(root)
    text = f"""
        acme: [{{directory_url: 'http://127.0.0.1:14000/dir', ca_bundle: '{root}'}}]
        lets_encrypt: {{email: a@example.com}}
    """
    (ca,) = parse_config(text, "c").cas
    assert ca.directory_url == "http://127.0.0.1:14000/dir"
    assert ca.ca_bundle == root
    assert ca.email == ""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        (":8999", TcpAddress("", 8999)),
        ("LOCALHOST:80", TcpAddress("localhost", 80)),
        ("[0:0::1]:65535", TcpAddress("::1", 65535)),
        ("unix:/run/a.sock", UnixAddress(Path("/run/a.sock"))),
        ("unix:a.sock", UnixAddress(Path("a.sock"))),
    ],
)
def test_listen_addresses(text: str, address: ListenAddress) -> None:
    assert parse_config(f'listen: "{text}"', "c").listen == (address,)
    assert parse_config(f'listen: ["{address}"]', "c").listen == (address,)


@pytest.mark.parametrize(
    "text",
    ["8999", "localhost", ":", ":65536", ":-1", ":99999999", "::1:80", "[::1]", "[127.0.0.1]:80", "a b:80", "1.2.3:80",
     "[::1]x:80", "999.1.1.1:80", ":\u0664"],
)  # fmt: skip
def test_other_listen_addresses_are_refused(text: str) -> None:
    assert only_mistake(f'listen: "{text}"') == (
        "1: listen: must be host:port, [IPv6 address]:port or unix:/path, with a port from 0 to 65535"
    )


@pytest.mark.parametrize("path", ["", "/" + 107 * "a", "/" + 54 * "ä"])
def test_unix_paths_the_kernel_would_refuse(path: str) -> None:
    assert only_mistake(f'listen: ["unix:{path}"]') == (
        "1: listen[0]: a Unix socket's path must be 1 to 107 bytes long"
    )


def test_several_free_ports_are_several_addresses() -> None:
    assert len(parse_config("listen: ['127.0.0.1:0', '127.0.0.1:0']", "c").listen) == 2


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "'true'"])
def test_switches_in_yamls_spellings(word: str) -> None:
    assert parse_config(f"self_signed: {{enable: {word}}}", "c").self_signed.enable


@pytest.mark.parametrize("key", ["2024", "2024-01-01", "1.50", "no", "abc.example.com+rsa", 200 * "a"])
def test_storage_keys_are_text_whatever_yaml_takes_them_for(key: str) -> None:
    assert parse_config(f"self_signed: {{cert_key: {key}}}", "c").self_signed.cert_key == key


def test_aliases_are_followed() -> None:
    config = parse_config("domains: &names [a.example.com]\nlets_encrypt: {domains: *names}", "c")
    assert config.domains == config.lets_encrypt.domains == ("a.example.com",)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().pid_file = Path("other")


def test_from_python_a_mistake_does_not_show_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"acme": [{"directory_url": "https://u:hunter2@ca.example.com/"}]})
    assert "hunter2" not in str(caught.value)
