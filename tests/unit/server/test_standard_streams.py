from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ssl_cert_server.errors import OutputFailed
from ssl_cert_server.server.background_writer import BackgroundWriter
from ssl_cert_server.server.standard_streams import CheckedStream, QueuedStream, _text, queue_standard_output

LONG_ENOUGH = 60


@pytest.fixture
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def test_output_that_cannot_be_written_fails_in_words_and_leaves_nothing_to_write_at_the_end(full: int) -> None:
    stream = _text(CheckedStream(full))
    for content in ("text", b"bytes"):
        with pytest.raises(OutputFailed, match="can't write to standard output: No space left on device"):
            typer.echo(content, file=stream)
    stream.flush()
    stream.close()
    os.fstat(full)  # the descriptor isn't the stream's to close


def test_checked_output_is_written_at_once(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        stream = _text(CheckedStream(file.fileno()))
        stream.write("one \ud800")
        typer.echo(b"two", file=stream)
        assert (tmp_path / "out").read_bytes() == b"one \\ud800two\n"
        assert not stream.isatty()
        assert stream.fileno() == file.fileno()


def test_queued_output_neither_fails_nor_is_lost_in_order() -> None:
    written = bytearray()

    def write(data: memoryview) -> int:
        written.extend(data)
        return len(data)

    stream = _text(QueuedStream(0, BackgroundWriter(write, str)))
    stream.write("one \ud800\n")
    typer.echo(b"two", file=stream)
    print("three", file=stream)
    stream.flush()
    assert isinstance(stream, io.TextIOWrapper)
    assert isinstance(stream.buffer, QueuedStream)
    assert stream.buffer.writer.drain(LONG_ENOUGH)
    assert written == b"one \\ud800\ntwo\nthree\n"


def test_standard_output_can_be_queued(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    writer = queue_standard_output()
    typer.echo("text")
    assert writer.drain(LONG_ENOUGH)
    assert capfd.readouterr().out == "text\n"
