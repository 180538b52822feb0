"""What the plugin's tests share."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.nginx import Nginx, NginxUnavailableError, find_nginx
from tests.support.stand_in import StandIn
from tests.support.visitors import http_get


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


def servers(*members: StandIn) -> str:
    """The option for several; the test's nginx has one by default."""
    return "backend = nil, backends = { " + ", ".join(f'"{member.backend}"' for member in members) + " },"


async def status(nginx: Nginx) -> dict[str, Any]:
    code, body = await http_get(nginx.http_port, "/status", "localhost")
    assert code == 200
    value: dict[str, Any] = json.loads(body)
    return value


async def is_up(nginx: Nginx) -> list[bool]:
    """Whether each of the servers is taken for well."""
    return [server["state"] == "up" for server in (await status(nginx))["backends"]]
