"""Runs the command line within the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ssl_cert_server.cli.main import main
from tests.support.logs import logging_put_back


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def make_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Make a function that takes arguments as a shell would."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ssl-cert-server", *arguments])
        with logging_put_back(), pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
