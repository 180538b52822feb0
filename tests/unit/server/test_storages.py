"""Which directories opening a storage creates."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.errors import StorageError
from ssl_cert_server.server.storages import open_storages
from tests.support.clock import ManualClock


@pytest.mark.parametrize("empty", [False, True])
async def test_commands_leave_out_a_missing_mirror_and_the_server_creates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    mirror = tmp_path / "mirror"
    if empty:
        mirror.mkdir(mode=0o700)
    config = parse_config("storage: {type: redis, redis: {addr: '127.0.0.1:1', mirror_dir: mirror}}", "c")
    of_command = open_storages(config, ManualClock())
    assert of_command.mirror is None
    assert [*mirror.glob("*")] == []
    assert mirror.exists() == empty
    of_server = open_storages(config, ManualClock(), create=True)
    assert of_server.mirror is not None
    assert [*mirror.glob("*")] != []
    with_mirror = open_storages(config, ManualClock())
    assert with_mirror.mirror is not None, "a command uses one that is there"
    for opened in (of_command, of_server, with_mirror):
        await opened.storage.close()


async def test_the_server_does_without_a_mirror_that_cannot_be_opened_and_a_command_does_not(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    settings = f"storage: {{type: redis, redis: {{addr: '127.0.0.1:1', mirror_dir: '{mirror}'}}}}"
    config = parse_config(settings, "c")
    await open_storages(config, ManualClock(), create=True).storage.close()
    (mirror / ".lock").unlink()
    (mirror / ".lock").mkdir()
    with pytest.raises(StorageError, match="lock"):
        open_storages(config, ManualClock())
    opened = open_storages(config, ManualClock(), create=True)
    assert opened.mirror is not None
    with pytest.raises(StorageError, match="a directory is in the place of a file"):
        await opened.mirror.directory.check()
    for use in (
        opened.mirror.directory.get("a.com"),
        opened.mirror.directory.put("a.com", b"value"),
        opened.mirror.directory.delete("a.com"),
        anext(opened.mirror.directory.list()),
    ):
        with pytest.raises(StorageError, match=r"mirror_dir: .*lock"):
            await use
    (mirror / ".lock").rmdir()
    assert not await opened.mirror.directory.check(), "nobody filled it"
    await opened.storage.close()
