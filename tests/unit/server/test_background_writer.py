from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ssl_cert_server.server.background_writer import BackgroundWriter, output_to

LONG_ENOUGH = 60
"""Seconds within which what must happen does, on however slow a machine."""

REPORT = "{} dropped\n".format


class Place:
    """Output that can be stuck, or fail, or have room for a few bytes only; ``text`` is what was written."""

    def __init__(self) -> None:
        self.room: int | None = None
        """Bytes that can still be written; None for any number."""
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()
        self._written = bytearray()

    def write(self, data: memoryview) -> int:
        self.entered.set()
        assert self.go_on.wait(LONG_ENOUGH)
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = len(data) if self.room is None else min(self.room, len(data))
        self._written += data[:size]
        if self.room is not None:
            self.room -= size
        return size

    @property
    def text(self) -> str:
        return self._written.decode()

    def stick(self, writer: BackgroundWriter) -> None:
        """Have the writer's thread hang in the write of a first line."""
        self.go_on.clear()
        self.entered.clear()
        writer.write("first\n")
        assert self.entered.wait(LONG_ENOUGH)


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.go_on.set()


def make(place: Place, max_lines: int = 1000, max_bytes: int = 10**6, report_again: float = 1000) -> BackgroundWriter:
    return BackgroundWriter(place.write, REPORT, max_lines=max_lines, max_bytes=max_bytes, report_again=report_again)


def drained(writer: BackgroundWriter) -> None:
    assert writer.drain(LONG_ENOUGH)


def test_lines_are_written_in_order_and_none_is_lost(place: Place) -> None:
    writer = make(place)
    for number in range(900):
        writer.write(f"{number}\n")
    drained(writer)
    assert place.text == "".join(f"{number}\n" for number in range(900))
    assert writer.dropped == 0


def test_an_output_that_takes_a_byte_at_a_time_gets_every_byte() -> None:
    written = bytearray()

    def write(data: memoryview) -> int:
        written.extend(data[:1])
        return 1

    writer = BackgroundWriter(write, REPORT)
    writer.write("one\n")
    writer.write(b"two\n")
    drained(writer)
    assert written == b"one\ntwo\n"


def test_what_cannot_be_encoded_is_escaped(place: Place) -> None:
    writer = make(place)
    writer.write("bad \ud800 and ä\n")
    drained(writer)
    assert place.text == "bad \\ud800 and ä\n"


class TestStuck:
    """Output that hangs: a pipe that nobody reads."""

    def test_lines_beyond_the_bound_are_dropped_and_reported_where_they_are_missing(self, place: Place) -> None:
        writer = make(place, max_lines=3)
        place.stick(writer)
        for number in range(10):
            writer.write(f"{number}\n")
        assert writer.dropped == 8
        place.go_on.set()
        drained(writer)
        assert place.text == "first\n0\n1\n8 dropped\n"
        writer.write("after\n")
        drained(writer)
        assert place.text == "first\n0\n1\n8 dropped\nafter\n"
        assert writer.dropped == 8

    def test_the_report_stands_before_the_first_line_that_found_room_again(self, place: Place) -> None:
        first_written = threading.Event()

        def write(data: memoryview) -> int:
            size = place.write(data)
            if place.text == "first\n":
                place.go_on.clear()
                place.entered.clear()
                first_written.set()
            return size

        writer = BackgroundWriter(write, REPORT, max_lines=2)
        place.stick(writer)
        for text in ("second\n", "lost\n", "lost\n"):
            writer.write(text)
        place.go_on.set()
        assert first_written.wait(LONG_ENOUGH)
        assert place.entered.wait(LONG_ENOUGH)  # it hangs in the second
        writer.write("third\n")
        place.go_on.set()
        drained(writer)
        assert place.text == "first\nsecond\n2 dropped\nthird\n"

    def test_bytes_are_bounded_too(self, place: Place) -> None:
        writer = make(place, max_bytes=100)
        place.stick(writer)
        for _ in range(3):
            writer.write("x" * 40 + "\n")
        assert writer.dropped == 1

    def test_a_line_longer_than_the_bound_is_written_where_nothing_else_waits(self, place: Place) -> None:
        writer = make(place, max_bytes=10)
        writer.write("x" * 50)
        drained(writer)
        assert place.text == "x" * 50

    def test_waiting_for_the_queue_ends_in_time(self, place: Place) -> None:
        writer = make(place)
        place.stick(writer)
        assert not writer.drain(0.05)


class TestFailing:
    """Output that refuses: a full disk, a pipe without a reader."""

    def test_lines_are_dropped_and_reported_when_it_works_again(self, place: Place) -> None:
        writer = make(place)
        place.room = 0
        for number in range(5):
            writer.write(f"{number}\n")
        drained(writer)
        assert (place.text, writer.dropped) == ("", 5)
        place.room = None
        writer.write("after\n")
        drained(writer)
        assert (place.text, writer.dropped) == ("5 dropped\nafter\n", 5)

    def test_the_report_comes_by_itself_where_nothing_else_is_written(self, place: Place) -> None:
        writer = make(place, report_again=0.01)
        place.room = 0
        writer.write("lost\n")
        drained(writer)
        place.entered.clear()
        place.room = None
        assert place.entered.wait(LONG_ENOUGH)
        drained(writer)
        assert place.text == "1 dropped\n"

    def test_after_a_line_that_was_cut_off_the_next_one_begins_on_its_own(self, place: Place) -> None:
        writer = make(place)
        place.room = 3
        writer.write("first\n")
        drained(writer)
        place.room = None
        writer.write("second\n")
        writer.write("third\n")
        drained(writer)
        assert place.text == "fir\n1 dropped\nsecond\nthird\n"

    def test_room_for_a_part_of_the_report_only_counts_nothing_twice(self, place: Place) -> None:
        writer = make(place)
        place.room = 0
        writer.write("lost\n")
        drained(writer)
        place.room = 4
        writer.write("lost too\n")
        drained(writer)
        place.room = None
        writer.write("after\n")
        drained(writer)
        assert place.text == "1 dr\n2 dropped\nafter\n"
        assert writer.dropped == 2


def test_many_threads_lose_nothing(place: Place) -> None:
    writer = make(place, max_lines=10_000)
    together = threading.Barrier(4)

    def work(who: int) -> None:
        together.wait()
        for number in range(500):
            writer.write(f"{who} {number}\n")

    threads = [threading.Thread(target=work, args=[who]) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drained(writer)
    lines = [tuple(map(int, line.split())) for line in place.text.splitlines()]
    for who in range(4):
        assert [number for each, number in lines if each == who] == list(range(500))


def test_a_finalizer_that_writes_amid_a_write_blocks_nothing(place: Place) -> None:
    writer = make(place)

    class Nested(bytes):
        """Bytes whose length is asked for under the lock, where a finalizer may run, too."""

        asked = 0

        def __len__(self) -> int:
            self.asked += 1
            if self.asked == 1:
                writer.write("inner\n")
            return super().__len__()

    def work() -> None:
        writer.write("first\n")
        writer.write(Nested(b"outer\n"))
        done.set()

    done = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    assert done.wait(LONG_ENOUGH)
    drained(writer)
    assert sorted(place.text.splitlines()) == ["first", "inner", "outer"]


class TestPipe:
    """A real one."""

    @pytest.fixture
    def pipe(self) -> Iterator[tuple[int, int]]:
        ends = os.pipe()
        yield ends
        for end in ends:
            with suppress(OSError):
                os.close(end)

    @pytest.mark.parametrize("blocking", [True, False])
    def test_a_full_one_is_waited_for_in_either_mode_and_gets_it_all(
        self, pipe: tuple[int, int], blocking: bool
    ) -> None:
        ours, theirs = pipe
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(theirs, blocking)
        writer = BackgroundWriter(output_to(theirs), REPORT)
        lines = [f"{number}{'x' * 1000}\n" for number in range(20)]
        for line in lines:
            writer.write(line)
        assert not writer.drain(0.05)
        got = b""
        while len(got) < sum(map(len, lines)):
            got += os.read(ours, 65536)
        assert got.decode() == "".join(lines)
        assert os.get_blocking(theirs) == blocking
        drained(writer)

    def test_one_without_a_reader_costs_lines_and_nothing_else(self, pipe: tuple[int, int]) -> None:
        ours, theirs = pipe
        writer = BackgroundWriter(output_to(theirs), REPORT)
        os.close(ours)
        writer.write("lost\n")
        drained(writer)
        assert writer.dropped == 1

    @pytest.mark.parametrize("open_it", [lambda: os.open("/dev/full", os.O_WRONLY), lambda: 10**6])
    def test_nor_does_a_full_device_or_a_number_that_is_no_descriptor(self, open_it: Callable[[], int]) -> None:
        writer = BackgroundWriter(output_to(open_it()), REPORT)
        writer.write("lost\n")
        drained(writer)
        assert writer.dropped == 1
