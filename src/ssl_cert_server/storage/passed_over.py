"""Going through many values of which some may be unreadable: those are passed over, storage that is away is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from ssl_cert_server.errors import NotOpened, StorageError

_log = structlog.get_logger()

MOST_IN_A_ROW = 10
"""More are no matter of single values."""


class PassedOver:
    """Counts what could not be used, and keeps the last ``reason``."""

    def __init__(self) -> None:
        self.count = 0
        self.reason = ""
        self._in_a_row = 0

    @contextmanager
    def unreadable(self) -> Iterator[None]:
        """Do something with one value; where storage can't, nothing happens.

        :raises StorageError: several in a row failed, so it is storage itself.
        """
        try:
            yield
        except StorageError as error:
            self.failed(error)
        else:
            self.worked()

    def failed(self, error: StorageError) -> None:
        """Hear that a value could not be used; it is raised again where that is storage itself."""
        self.count += 1
        self.reason = str(error)
        self._in_a_row += not isinstance(error, NotOpened)  # that one was read
        if self._in_a_row >= MOST_IN_A_ROW:
            raise error

    def worked(self) -> None:
        """Hear that one could."""
        self._in_a_row = 0

    def tell(self, folder: str) -> None:
        """Log what was passed over in a folder, if anything."""
        if self.count:
            _log.warning("storage.passed_over", folder=folder, values=self.count, reason=self.reason)
