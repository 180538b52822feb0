"""A package installed into a folder of its own, for tests that must not touch the environment they run in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def install(project: Path, target: Path) -> None:
    """Build a project and install it alone; what builds it is in the environment already."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", target, project],
        check=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
