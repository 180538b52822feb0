"""Single values that can't be read are passed over; storage that is away is not gone on with."""

from __future__ import annotations

import pytest

from ssl_cert_server.errors import NotOpened, StorageError
from ssl_cert_server.storage.passed_over import MOST_IN_A_ROW, PassedOver


def fail(passed: PassedOver, error: StorageError) -> None:
    with passed.unreadable():
        raise error


def test_as_many_as_there_are_where_others_can_be_read_between() -> None:
    passed = PassedOver()
    for _ in range(10):
        for number in range(MOST_IN_A_ROW - 1):
            fail(passed, StorageError(f"can't read {number}"))
        with passed.unreadable():
            pass
    assert (passed.count, passed.reason) == (10 * (MOST_IN_A_ROW - 1), f"can't read {MOST_IN_A_ROW - 2}")


def test_several_in_a_row_are_storage_itself() -> None:
    passed = PassedOver()
    error = StorageError("connection refused")
    for _ in range(MOST_IN_A_ROW - 1):
        fail(passed, error)
    with pytest.raises(StorageError) as raised:
        fail(passed, error)
    assert raised.value is error


def test_what_was_read_and_can_not_be_opened_is_no_matter_of_storage() -> None:
    passed = PassedOver()
    for _ in range(5 * MOST_IN_A_ROW):
        fail(passed, NotOpened("sealed with another key"))
    assert passed.count == 5 * MOST_IN_A_ROW
