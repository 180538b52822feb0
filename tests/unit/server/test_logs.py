from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from ssl_cert_server.model import KeyType
from ssl_cert_server.pki.keys import generate_key, key_to_pem
from ssl_cert_server.server.logs import redact, set_up_logs
from tests.support.logs import logging_put_back

KEY = key_to_pem(generate_key(KeyType.ECDSA_P256)).decode()
KEY_LINE = KEY.splitlines()[1]
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
KEY_AUTHORIZATION = f"{TOKEN}.{THUMBPRINT}"
SECRETS = (KEY_LINE, THUMBPRINT)


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    with logging_put_back():
        yield


def _redacted(**fields: object) -> dict[str, object]:
    return dict(redact(None, "info", dict(fields)))


@dataclass
class Holder:
    """Something whose repr shows a secret."""

    secret: str


@pytest.mark.parametrize("secret", [KEY, KEY_AUTHORIZATION])
@pytest.mark.parametrize(
    "hide",
    [
        lambda secret: secret,
        lambda secret: secret.encode(),
        lambda secret: f"the CA said {secret} and more",
        lambda secret: f"url=http://a.com/.well-known/acme-challenge/{secret}?x",
        lambda secret: ValueError(secret),
        lambda secret: [secret],
        lambda secret: {"nested": {"deeper": secret}},
        lambda secret: Holder(secret),
        lambda secret: f"{secret}\n{secret}",
    ],
)
def test_a_secret_is_dropped_wherever_it_stands(secret: str, hide: object) -> None:
    assert callable(hide)
    for field in ("event", "reason", "exception"):
        text = str(_redacted(**{field: hide(secret)})[field])
        assert "[redacted]" in text
        assert not any(part in text for part in SECRETS)


@pytest.mark.parametrize("field", ["key", "key_pem", "pkey", "private_key", "token", "key_authorization", "password"])
def test_a_field_that_is_named_like_a_secret_is_dropped(field: str) -> None:
    for value in ("anything", b"anything", 7, ["anything"], None):
        assert _redacted(**{field: value}) == {field: "[redacted]"}


def test_a_key_that_was_cut_off_is_dropped() -> None:
    assert _redacted(reason=KEY[:150]) == {"reason": "[redacted]"}


@pytest.mark.parametrize("label", ["EC PRIVATE KEY", "RSA PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_every_kind_of_key_is_dropped_and_what_follows_stays(label: str) -> None:
    pem = f"-----BEGIN {label}-----\nMHcCAQEE\n-----END {label}-----"
    assert _redacted(reason=f"before {pem} after") == {"reason": "before [redacted] after"}


@pytest.mark.parametrize(
    "value",
    [
        "a.com",
        "http://127.0.0.1:8999/cert/a-rather-long-name-of-a-customer.example.com",
        "https://acme-v02.api.letsencrypt.org/acme/order/123456789/987654321",
        "-----BEGIN CERTIFICATE-----",
        "a" * 40,
        "bf1fcec0d4074ebf50cb4fdc244a37ca64dd8964",
        3,
        2.5,
        True,
        None,
    ],
)
def test_what_is_no_secret_stays(value: object) -> None:
    assert _redacted(reason=value) == {"reason": value}


def test_a_long_text_costs_linear_time() -> None:
    started = time.thread_time()
    _redacted(reason="a" * 1_000_000, other="-----BEGIN PRIVATE KEY-----" * 10_000)
    assert time.thread_time() - started < 1


def test_no_traceback_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(sys.stderr.write, colors=False)
    log = structlog.get_logger()
    try:
        try:
            raise ValueError(f"parsing {KEY} failed")
        except ValueError as error:
            raise RuntimeError(f"presenting {KEY_AUTHORIZATION}") from error
    except RuntimeError:
        log.exception("request.crashed", name="a.com")
        logging.getLogger("asyncio").exception("library trouble")
    shown = capsys.readouterr().err
    assert shown.count("Traceback") == 4
    assert not any(secret in shown for secret in SECRETS)


def test_a_line_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(sys.stderr.write, colors=False)
    structlog.get_logger().warning("certificate.failed", name="a.com", reason="first\nsecond")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "event=certificate.failed name=a.com reason=first\\nsecond" in captured.err
    assert captured.err.startswith("timestamp=")
    assert " level=warning " in captured.err


def test_libraries_log_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(sys.stderr.write, colors=False)
    logging.getLogger("uvicorn.error").warning("odd %s", KEY_AUTHORIZATION)
    logging.getLogger("uvicorn.error").info("not shown")
    shown = capsys.readouterr().err
    assert "event=library.uvicorn.error" in shown
    assert 'message="odd [redacted]"' in shown
    assert shown.count("\n") == 1


def test_what_is_below_info_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(sys.stderr.write, colors=False)
    structlog.get_logger().debug("a.detail")
    structlog.get_logger().info("a.fact")
    assert "event=a.fact" in (shown := capsys.readouterr().err)
    assert shown.count("\n") == 1


class Hostile:
    """A value that can't be shown."""

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


class TestNoLogCallRaises:
    """Whatever is logged, a line is written, and the caller goes on."""

    @pytest.fixture
    def lines(self) -> list[str]:
        lines: list[str] = []
        set_up_logs(lines.append, colors=False)
        return lines

    @pytest.fixture
    def line(self, lines: list[str]) -> Callable[[], str]:
        def only() -> str:
            (line,) = lines
            assert line.endswith("\n")
            assert line.count("\n") == 1
            return line

        return only

    def test_a_value_that_cannot_be_shown(self, line: Callable[[], str]) -> None:
        structlog.get_logger().info("a.fact", value=Hostile(), name="a.com")
        assert "event=a.fact" in line()
        assert 'value="<Hostile that can\'t be shown: ZeroDivisionError>" name=a.com' in line()

    @pytest.mark.parametrize("fields", [{"no name": 1}, {"value": 10**5000}])
    def test_fields_that_cannot_be_rendered(self, line: Callable[[], str], fields: dict[str, Any]) -> None:
        structlog.get_logger().warning("a.fact", **fields)
        assert " level=warning event=a.fact unrenderable=ValueError" in line()

    def test_fields_that_cannot_be_rendered_show_no_secret(self, line: Callable[[], str]) -> None:
        structlog.get_logger().warning(f"a {KEY_AUTHORIZATION}", **{"no name": KEY})
        assert not any(secret in line() for secret in SECRETS)

    def test_an_exception_that_cannot_be_shown(self, line: Callable[[], str]) -> None:
        class Odd(Exception):
            def __str__(self) -> str:
                raise ZeroDivisionError

        try:
            raise Odd
        except Odd:
            structlog.get_logger().exception("a.crash")
        assert "event=a.crash" in line()

    @pytest.mark.parametrize("colors", [True, False])
    def test_text_that_cannot_be_encoded(self, colors: bool) -> None:
        lines: list[str] = []
        set_up_logs(lines.append, colors=colors)
        structlog.get_logger().info("a.fact", value="\ud800")
        assert len(lines) == 1

    @pytest.mark.parametrize("arguments", [("one",), ("one", "two"), (Hostile(),)])
    def test_a_librarys_arguments_that_do_not_fit_its_text(
        self, line: Callable[[], str], lines: list[str], arguments: tuple[object, ...]
    ) -> None:
        set_up_logs(lines.append, colors=False)  # again, in place of pytest's own handlers, which do raise
        logging.getLogger("library").warning("%d of them", *arguments)
        assert 'event=library.library message="%d of them"' in line()

    @pytest.mark.parametrize(("level", "name"), [(35, "warning"), (99, "critical"), (40, "error")])
    def test_a_librarys_own_level(self, line: Callable[[], str], level: int, name: str) -> None:
        logging.getLogger("library").log(level, "text")
        assert f" level={name} " in line()

    def test_a_long_value_is_shown_with_its_beginning_and_its_end(self, line: Callable[[], str]) -> None:
        structlog.get_logger().info("a.fact", value="begin" + "x" * 100_000 + "end")
        assert 'value="beginxxx' in line()
        assert 'xxxend"' in line()
        assert len(line()) < 17_000

    @pytest.mark.parametrize("secret", [KEY, KEY_AUTHORIZATION])
    def test_no_cut_leaves_a_part_of_a_secret(self, line: Callable[[], str], lines: list[str], secret: str) -> None:
        for length in (8192, 256 * 1024):
            for shift in (1, 30, 60, 80):
                lines.clear()
                text = "x y " * ((length - shift) // 4) + " " + secret + " z" * 50_000
                structlog.get_logger().info("a.fact", value=text)
                assert not any(part[:20] in line() for part in SECRETS)


def test_what_ends_a_thread_is_logged_without_secrets() -> None:
    lines: list[str] = []
    set_up_logs(lines.append, colors=False)

    def fail() -> None:
        raise ValueError(f"parsing {KEY} failed")

    thread = threading.Thread(target=fail, name="worker 1")
    thread.start()
    thread.join()
    (line,) = lines
    assert 'event=thread.crashed thread="worker 1"' in line
    assert "ValueError: parsing [redacted]" in line
