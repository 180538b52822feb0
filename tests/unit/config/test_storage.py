"""The storage section: kinds of storage, where passwords and keys stand, and what fits together."""

from __future__ import annotations

import base64
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.config.secrets import seal_key_bytes
from ssl_cert_server.config.storage import Storage
from ssl_cert_server.storage import registry
from ssl_cert_server.storage.postgres import PostgresSettings
from ssl_cert_server.storage.redis import RedisSettings
from tests.unit.config.support import PREDECESSOR, only_mistake, write_root

KINDS = "dir_cache, redis, postgres, directory"
KEY = bytes(range(32))
NOT_A_KEY = "must hold 32 bytes in base64 or hex, as `ssl-cert-server storage new-key` prints them"
REDIS_FORMS = "must be host:port, or a URL: redis://host:port/0, rediss://host:port or unix:///path"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def storage(text: str) -> Storage:
    return parse_config(text, "c").storage


# --- kinds


@pytest.mark.parametrize("kind", ["dir_cache", "directory"])
def test_a_directory_under_either_name(kind: str) -> None:
    section = storage(f"storage: {{type: {kind}, dir_cache: x}}")
    assert (section.type, section.settings) == ("dir_cache", {"path": Path("x")})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("memory", "memory forgets every certificate when the server stops; use dir_cache"),
        ("redsi", "no such storage; did you mean redis?"),
        ("PostgreSQL", "no such storage; did you mean postgres?"),
        ("dircache", "no such storage; did you mean dir_cache?"),
        ("zzz", f"no such storage; there are {KINDS}"),
        ("z" * 5000, f"no such storage; there are {KINDS}"),
        ("[x]", "must be the name of a kind of storage, like dir_cache"),
        ("seal", f"no such storage; there are {KINDS}"),
    ],
)
def test_a_kind_that_does_not_exist_names_the_nearest(kind: str, message: str) -> None:
    assert only_mistake(f"storage: {{type: {kind}}}") == f"1: storage.type: {message}"


def test_the_predecessors_redis_loads_unchanged() -> None:
    text = PREDECESSOR.replace("type: dir_cache", "type: redis").replace('prefix: ""', 'prefix: "ssl:"')
    settings = storage(text).settings
    assert (settings["addr"], settings["prefix"]) == ("127.0.0.1:6379", "ssl:")


# --- Redis


def test_everything_about_redis_reaches_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    write_root(Path("ca.pem"))
    section = storage("""
        storage:
          type: redis
          redis:
            username: certs
            password_env: SECRET
            sentinels: ["10.0.0.1:26379", "[::1]:26379"]
            master: mymaster
            sentinel_username: watcher
            sentinel_password_env: SECRET
            prefix: "ssl:"
            ca_bundle: ca.pem
            client_cert: client.pem
            client_key: client.key
            pool: 3
            timeout: 0.5
            wait_replicas: 2
    """)
    assert section.settings == {
        "addr": "127.0.0.1:6379",
        "username": "certs",
        "password": "hunter2",
        "sentinels": ("10.0.0.1:26379", "[::1]:26379"),
        "master_name": "mymaster",
        "sentinel_username": "watcher",
        "sentinel_password": "hunter2",
        "cluster": False,
        "prefix": "ssl:",
        "ca_bundle": Path("ca.pem"),
        "client_cert": Path("client.pem"),
        "client_key": Path("client.key"),
        "pool_size": 3,
        "timeout": 0.5,
        "wait_replicas": 2,
    }
    assert "hunter2" not in repr(section)


@pytest.mark.parametrize(
    "addr", ["redis.example.com:6379", ":6379", "[::1]:6379", "redis://a", "rediss://a:1/2", "unix:///run/redis.sock"]
)
def test_addresses_of_redis(addr: str) -> None:
    assert storage(f"storage: {{type: redis, redis: {{addr: '{addr}'}}}}").settings["addr"] == addr


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ("addr: localhost", ".addr", REDIS_FORMS),
        ("addr: 'http://a:1'", ".addr", REDIS_FORMS),
        ("addr: 'redis://[::1'", ".addr", REDIS_FORMS),
        ("addr: 'redis://'", ".addr", REDIS_FORMS),
        ("addr: 'unix://'", ".addr", REDIS_FORMS),
        *(
            (
                f"addr: '{addr}'",
                ".addr",
                "must not hold a user name or password: see username, password_file and password_env",
            )
            for addr in ("redis://:hunter2@a", "redis://u@a", "unix:///run/redis?password=hunter2")
        ),
        ("password: hunter2", ".password", "unknown key; did you mean password_env?"),
        ("password_file: nowhere", ".password_file", "the file can't be read: no such file or directory"),
        ("sentinels: '10.0.0.1:1'", "", "sentinels and master belong together: who is asked, and for which master"),
        (
            "addr: 'a:1,b:1'",
            "",
            "several nodes can stand in addr with cluster only; sentinels have a list of their own",
        ),
        ("addr: 'a:1,', cluster: true", ".addr", REDIS_FORMS),
        ("master: m", "", "sentinels and master belong together: who is asked, and for which master"),
        ("sentinels: '10.0.0.1:1', master: m, cluster: true", "", "give one of sentinels and cluster"),
        ("client_cert: x", "", "client_cert and client_key belong together"),
        ("ca_bundle: nowhere", ".ca_bundle", "the file can't be read: no such file or directory"),
        ("pool: 0", ".pool", "must be 1 or more"),
        ("timeout: 0", ".timeout", "must be more than 0"),
        ("wait_replicas: -1", ".wait_replicas", "must be 0 or more"),
    ],
)
def test_what_does_not_fit_about_redis(keys: str, path: str, message: str) -> None:
    assert only_mistake(f"storage: {{redis: {{{keys}}}}}") == f"1: storage.redis{path}: {message}"


def test_nodes_of_a_cluster() -> None:
    settings = storage("storage: {type: redis, redis: {addr: 'a:1, rediss://b:2', cluster: true}}").settings
    assert (settings["addr"], settings["cluster"]) == ("a:1, rediss://b:2", True)


def test_the_settings_are_those_of_the_backends() -> None:
    section = storage("storage: {postgres: {dsn: host=a}}")
    RedisSettings(**section.redis.settings)  # type: ignore[arg-type]
    PostgresSettings(**section.postgres.settings)  # type: ignore[arg-type]


def test_a_password_stands_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    Path("password").write_text("hunter2\n")
    both = "{password_env: SECRET, password_file: password}"
    assert only_mistake(f"storage: {{redis: {both}}}") == "1: storage.redis: give one of password_file and password_env"
    assert storage("storage: {redis: {password_file: password}}").redis.password == "hunter2"


# --- PostgreSQL


def test_everything_about_postgres_reaches_its_backend() -> None:
    Path("password").write_text("hunter2\n")
    section = storage("""
        storage:
          type: postgres
          postgres: {dsn: "host=a password=hunter3", password_file: password, schema: s_1, pool: 2, timeout: 3}
    """)
    assert section.settings == {
        "dsn": "host=a password=hunter3",
        "password": "hunter2",
        "schema": "s_1",
        "pool_size": 2,
        "timeout": 3,
    }
    assert "hunter" not in repr(section)


def test_postgres_needs_a_connection() -> None:
    assert only_mistake("storage: {type: postgres}") == "1: storage: postgres.dsn is required where type is postgres"


@pytest.mark.parametrize("schema", ["pg_catalog", "Certs", "1a", 'a"b', "a" * 64])
def test_names_of_schemas_that_would_need_care(schema: str) -> None:
    message = "must be 1 to 63 small letters, digits and underscores, not starting with a digit or pg_"
    text = f"storage: {{postgres: {{schema: '{schema}'}}}}"
    assert only_mistake(text) == f"1: storage.postgres.schema: {message}"


# --- seal


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.b64encode(KEY).decode().rstrip("="),
        base64.urlsafe_b64encode(KEY).decode(),
        f" {KEY.hex()} ",
    ],
)
def test_a_key_in_base64_or_hex(text: str) -> None:
    assert seal_key_bytes(text) == KEY


def test_base64_of_both_alphabets() -> None:
    odd = b"\xfb\xff" * 16
    assert seal_key_bytes(base64.b64encode(odd).decode()) == odd
    assert seal_key_bytes(base64.urlsafe_b64encode(odd).decode()) == odd


@pytest.mark.parametrize(
    "text", ["", "x", "00" * 31, "00" * 33, "g" * 64, "A" * 42, "A" * 45, "ä" * 43, "+-" * 21 + "A"]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="must hold 32 bytes"):
        seal_key_bytes(text)


def test_keys_come_from_files_the_environment_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one").write_text("01" * 32 + "\n")
    Path("three").write_text("03" * 32)
    monkeypatch.setenv("TWO", "02" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(Path.cwd()))
    section = storage("storage: {seal: {keys: [{file: one}, {env: TWO}, {credential: three}]}}")
    assert section.seal.secrets == (b"\1" * 32, b"\2" * 32, b"\3" * 32)
    assert "0101" not in repr(section)


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ("{}", "[0]", "needs exactly one of file, env and credential"),
        ("{file: good, env: GOOD}", "[0]", "needs exactly one of file, env and credential"),
        ("{file: bad}", "[0].file", NOT_A_KEY),
        ("{file: nowhere}", "[0].file", "the file can't be read: no such file or directory"),
        ("{env: NOWHERE}", "[0].env", "the environment variable is not set, or empty"),
        ("{credential: a/b}", "[0].credential", "must be the name of a credential: letters, digits, dots, - and _"),
        ("{credential: ..}", "[0].credential", "must be the name of a credential: letters, digits, dots, - and _"),
        ("{credential: nowhere}", "[0].credential", "the file can't be read: no such file or directory"),
        ("{key: hunter2}", "[0].key", "unknown key here; did you mean storage.seal.keys?"),
    ],
)
def test_keys_that_cannot_be_used(keys: str, path: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("good").write_text("01" * 32)
    Path("bad").write_text("hunter2")
    monkeypatch.setenv("GOOD", "02" * 32)
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(Path.cwd()))
    found = only_mistake(f"storage: {{seal: {{keys: [{keys}]}}}}")
    assert found.startswith(f"1: storage.seal.keys{path}: {message}")
    assert "hunter2" not in found


def test_without_a_service_manager_there_are_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "CREDENTIALS_DIRECTORY is not set" in only_mistake("storage: {seal: {keys: [{credential: a}]}}")


def test_the_same_key_twice() -> None:
    Path("one").write_text("01" * 32)
    text = "storage: {seal: {keys: [{file: one}, {file: ./one}]}}"
    assert only_mistake(text) == "1: storage.seal: the same key is listed twice"


# --- another package's


@pytest.fixture
def _other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint(name, "nowhere:open", registry.GROUP) for name in ("sqlite", "redis", "seal")]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])


@pytest.mark.usefixtures("_other_package")
class TestAnotherPackages:
    """Its backend's settings stand under its own name, and are its own to judge."""

    def test_gets_what_stands_there(self) -> None:
        section = storage("storage: {type: sqlite, sqlite: {path: a.db, hosts: [x], nothing: }}")
        assert section.type == "sqlite"
        assert section.settings == {"path": "a.db", "hosts": ["x"], "nothing": None}

    def test_settings_are_not_shown(self) -> None:
        assert "hunter2" not in repr(storage("storage: {type: sqlite, sqlite: {password: hunter2}}"))

    @pytest.mark.parametrize("text", ["{type: sqlite}", "{type: sqlite, sqlite: }"])
    def test_may_do_without_settings(self, text: str) -> None:
        assert storage(f"storage: {text}").settings == {}

    def test_its_section_is_a_section(self) -> None:
        mistake = only_mistake("storage: {type: sqlite, sqlite: hunter2}")
        assert mistake == "1: storage: sqlite must be a section with keys of its own"

    def test_its_section_is_unknown_while_another_kind_is_chosen(self) -> None:
        assert "storage.sqlite: unknown key" in only_mistake("storage: {sqlite: {}}")

    def test_its_name_is_suggested(self) -> None:
        assert "did you mean sqlite?" in only_mistake("storage: {type: sqlit}")

    def test_it_cannot_take_a_name_of_ours(self) -> None:
        assert "addr" in storage("storage: {type: redis}").settings
        assert "no such storage" in only_mistake("storage: {type: seal}")
