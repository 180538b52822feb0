"""Runs the command line within the test's own process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

import pytest

from ssl_cert_server.cli.main import main
from ssl_cert_server.server.standard_streams import QueuedStream
from tests.support.logs import logging_put_back

_WRITTEN = 60
"""Seconds within which all that was queued must be written."""


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def make_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Make a function that takes arguments as a shell would."""

    def run(*arguments: str) -> Result:
        with monkeypatch.context() as patches:
            for place, name in _TAKEN_OVER:
                patches.setattr(place, name, getattr(place, name))
            patches.setattr(sys, "argv", ["ssl-cert-server", *arguments])
            with logging_put_back(), pytest.raises(SystemExit) as ended:
                main()
            for stream in (sys.stdout, sys.stderr):
                _drain(stream)
        code = ended.value.code
        assert isinstance(code, int)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


_TAKEN_OVER = ((sys, "stdin"), (sys, "stdout"), (sys, "stderr"))
"""What ``main`` changes in the process for good."""


def _drain(stream: TextIO) -> None:
    queued = stream.buffer if isinstance(stream, io.TextIOWrapper) else None
    if isinstance(queued, QueuedStream):
        assert queued.writer.drain(_WRITTEN)
