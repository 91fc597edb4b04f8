"""Faults put into records of a dataset, and the one-line complaint that must follow."""

import pytest

from foundation.errors import UserError

ABSENT = object()


def change(record_of, **fields):
    """Sets fields of one record, or takes them out."""

    def apply(data) -> None:
        record = record_of(data)
        record.update(fields)
        for name in [name for name, value in fields.items() if value is ABSENT]:
            del record[name]

    return apply


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
