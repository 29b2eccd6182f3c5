"""Environment variables: defaults, bounds and error messages."""

import pytest

from src.environment import first_set, read_choice, read_flag, read_number


def test_numbers() -> None:
    assert read_number({}, "X", None) is None
    assert read_number({"X": ""}, "X", 3.0) == 3.0
    assert read_number({"X": "0"}, "X", None, minimum=0) == 0
    assert read_number({"X": "1e3"}, "X", None, maximum=1000) == 1000


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "many", "11"])
def test_numbers_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match=f"^X is '{text}'; a number above 0 and at most 10 is needed$"):
        read_number({"X": text}, "X", None, maximum=10)


def test_an_inclusive_minimum_is_named() -> None:
    with pytest.raises(ValueError, match=r"^X is '0.5'; a number from 1 is needed$"):
        read_number({"X": "0.5"}, "X", None, minimum=1)


def test_choices() -> None:
    assert read_choice({}, "X", ("a", "b"), "b") == "b"
    with pytest.raises(ValueError, match=r"^X is ''; allowed are a, b$"):
        read_choice({"X": ""}, "X", ("a", "b"), "b")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("yes", None), ("", None)])
def test_flags(text: str, value: bool | None) -> None:
    for default in (True, False):
        assert read_flag({"X": text}, "X", default=default) is (default if value is None else value)


def test_the_first_variable_that_is_set() -> None:
    assert first_set({"B": "", "C": "c"}, "A", "B", "C") == "c"
    assert first_set({}, "A") is None
