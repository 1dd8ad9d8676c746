"""What a refusal has to say, as rows of a table."""

from collections.abc import Callable

import pytest

from bosal_client import BosalError, Client

# What is asked, how, and the error's type, reason, field and a part of its message.
Refusal = tuple[str, Callable[[Client], object], type[BosalError], str, str, str]


def check_refused(client: Client, case: Refusal) -> None:
    """Ask, and compare the error."""
    _, ask, kind, reason, field, named = case
    with pytest.raises(BosalError) as failure:
        ask(client)
    error = failure.value
    assert (type(error), error.reason, error.field) == (kind, reason, field)
    assert named in error.message
