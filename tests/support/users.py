"""Programs that run as another user."""

from __future__ import annotations

import functools
import subprocess
import sys

from tests.support.disks import NOBODY

_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
_READING_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


@functools.cache
def as_nobody() -> tuple[str, ...]:
    """Return what begins a command that runs as a user without privileges; only root may run it.

    Where that user can't reach the interpreter or this checkout, it may read everything, but write no more than before.
    """
    probe = [*_AS_NOBODY, sys.executable, "-c", "import ssl_cert_server.cli.main"]
    reachable = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return _AS_NOBODY if reachable else (*_AS_NOBODY, *_READING_ALL)
