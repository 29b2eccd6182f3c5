"""Values quoted in error messages."""

import pytest

from src.errors import MAX_REPR, truncated_repr


@pytest.mark.parametrize("value", ["short", "quote ' and \n", 5, None, [1, 2], "a" * MAX_REPR])
def test_short_values_are_their_repr(value: object) -> None:
    assert truncated_repr(value) == repr(value)


def test_long_values_are_truncated() -> None:
    assert truncated_repr("a" * 5_000) == f"'{'a' * MAX_REPR}'... (5,000 characters)"
    assert truncated_repr(list(range(1_000))).startswith("[0, 1, 2")
    assert truncated_repr(list(range(1_000))).endswith("... (4,890 characters)")
