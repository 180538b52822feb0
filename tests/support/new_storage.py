"""A directory that is a storage, without a server."""

from __future__ import annotations

from pathlib import Path


def make_storage(path: Path) -> None:
    """Make a directory that commands take for a storage, as the first start of a server does."""
    (path / "_leases").mkdir(mode=0o700, parents=True)
    path.chmod(0o700)
