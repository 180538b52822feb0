"""Background printing for commands that change something: a slow or missing reader does not stop their work."""

from __future__ import annotations

import atexit
import sys

from ssl_cert_server.server.background_writer import BackgroundWriter
from ssl_cert_server.server.standard_streams import queue_standard_output

_PATIENCE = 60.0
"""Seconds that the end of a command waits for a slow reader."""


def print_in_background() -> None:
    """Queue what is printed from now on: printing neither fails nor holds up a command that holds a lease.

    Where output was lost, a line on standard error says so; the exit code is that of the work.
    """
    atexit.register(_finish, queue_standard_output())


def _finish(writer: BackgroundWriter) -> None:
    if not writer.drain(_PATIENCE) or writer.dropped:
        sys.stderr.write("ssl-cert-server: not all that was to be printed could be written to standard output\n")
