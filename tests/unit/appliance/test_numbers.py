"""Numbers of slots, as people write them."""

import pytest
from hypothesis import given, strategies

from appliance.settings.numbers import format_numbers, parse_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-3", [1, 2, 3]),
        (" 7 , 1 - 2,", [7, 1, 2]),
        ("", []),
        ("65535", [65535]),
    ],
)
def test_what_is_read(text: str, numbers: list[int]) -> None:
    assert list(parse_numbers(text)) == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1-3,2", "'1-3,2' has 2 twice"),
        ("3-1", "the lower number first"),
        ("0", "from 1 to 65535"),
        ("1-65536", "from 1 to 65535"),
        ("1-999999", "are no numbers of slots"),
        ("slot:1", "are no numbers of slots"),
        ("-1", "are no numbers of slots"),
        ("\u0661", "are no numbers of slots"),
        ("1-2-3", 'write for example "1-20" or "1-10,15,20-25"'),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_numbers(text)
    assert said in str(caught.value)


@given(strategies.lists(strategies.integers(1, 60), unique=True))
def test_both_ways(numbers: list[int]) -> None:
    assert list(parse_numbers(format_numbers(numbers))) == numbers


def test_runs_are_runs() -> None:
    assert format_numbers([1, 2, 3, 7, 6, 9, 10]) == "1-3,7,6,9-10"
