"""What the plugin's tests share."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nginx import NginxUnavailableError, find_nginx


@pytest.fixture(autouse=True, scope="module")
def nginx_is_installed() -> None:
    try:
        find_nginx()
    except NginxUnavailableError as error:
        pytest.fail(str(error))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "nginx"
    path.mkdir()
    return path


@pytest.fixture
def short_path() -> Iterator[str]:
    """A path short enough for a Unix socket."""
    folder = subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip()
    yield f"{folder}/s"
    shutil.rmtree(folder)
