"""Load on instances that are killed meanwhile, and what each name that was asked for went through."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.support.server import CertServer, Reply

_PAUSE = 0.3


class SharedLoad:
    """Asks for new names, ``at_once`` of them at a time, and for each at all ``servers`` at the same time.

    A question that a kill cut off is asked again until it is answered; a name that failed is then left alone.
    ``replies`` has the answers by name, one of each server; ``unanswered`` the names that somebody waits for.
    ``struck`` counts by name the outages that it was under way in, and ``excused`` are names that one may have failed.

    A context manager: at the end of the block all that was asked gets its answers.
    """

    def __init__(self, servers: Sequence[CertServer], *, at_once: int) -> None:
        self._servers = servers
        self._at_once = at_once
        self._numbers = itertools.count()
        self._guard = threading.Lock()
        self._over, self._given_up = threading.Event(), threading.Event()
        self._unsettled: set[str] = set()
        self._hit: set[str] | None = None
        self.unanswered: set[str] = set()
        self.replies: dict[str, list[Reply]] = {}
        self.struck: Counter[str] = Counter()
        self.excused: set[str] = set()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._at_once)
        self._asking = [self._pool.submit(self._ask_on) for _ in range(self._at_once)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if error is not None:
            self._given_up.set()
        self._pool.shutdown()
        if error is None:
            for asking in self._asking:
                asking.result()

    @contextmanager
    def outage(self, *, excuses: bool) -> Iterator[None]:
        """Note which names are under way at any time during the block; ``excuses``: they may fail by it."""
        with self._guard:
            self._hit = {*self._unsettled}
        yield
        with self._guard:
            self.struck.update(self._hit)
            if excuses:
                self.excused |= self._hit
            self._hit = None

    def acknowledged(self) -> dict[str, set[str]]:
        """Give the fingerprints that were handed out, by name."""
        handed_out = {name: _fingerprints(replies) for name, replies in self.replies.copy().items()}
        return {name: fingerprints for name, fingerprints in handed_out.items() if fingerprints}

    def _ask_on(self) -> None:
        with ThreadPoolExecutor(len(self._servers)) as pool:
            while not self._over.is_set():
                number = next(self._numbers)
                first = number % len(self._servers)  # each has some that it is at work on, with the others waiting
                if not self._ask(f"k{number}.example.com", [*self._servers[first:], *self._servers[:first]], pool):
                    time.sleep(_PAUSE)

    def _ask(self, name: str, servers: Sequence[CertServer], pool: Executor) -> bool:
        with self._guard:
            self.unanswered.add(name)
            self._unsettled.add(name)
            if self._hit is not None:
                self._hit.add(name)
        replies = [*pool.map(lambda server: self._until_answered(server, name), servers)]
        answered = [reply for reply in replies if reply is not None]
        with self._guard:
            self.replies[name] = answered
            self.unanswered.remove(name)
            if is_settled := bool(_fingerprints(answered)):
                # One that failed may be tried again in the background: it stays under way.
                self._unsettled.remove(name)
        return is_settled

    def _until_answered(self, server: CertServer, name: str) -> Reply | None:
        while not self._given_up.is_set():
            try:
                return server.cert(name)
            except (OSError, http.client.HTTPException):
                time.sleep(_PAUSE)
        return None


def _fingerprints(replies: Sequence[Reply]) -> set[str]:
    return {reply.json["fingerprint"] for reply in replies if reply.status == 200}
