"""Numbers of slots as people write them: 1-20,25."""

import re
from collections.abc import Iterator, Sequence

_RUN = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", re.ASCII)
LARGEST_NUMBER = 65535  # of elements that a media changer can have


def parse_numbers(text: str) -> list[int]:
    """The numbers of "1-20,25", in the order in which they are written; none of "". Raises ValueError that says what
    numbers look like, or which one is given twice."""
    numbers: dict[int, None] = {}  # in their order
    for part in filter(None, map(str.strip, text.split(","))):
        for number in _run(text, part):
            if number in numbers:
                raise ValueError(f"{text!r} has {number} twice")
            numbers[number] = None
    return list(numbers)


def _run(text: str, part: str) -> range:
    found = _RUN.fullmatch(part)
    if found is None:
        raise ValueError(f'{text!r} are no numbers of slots; write for example "1-20" or "1-10,15,20-25"')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= LARGEST_NUMBER:
        raise ValueError(f"{part!r} is no run of slots: from 1 to {LARGEST_NUMBER}, the lower number first")
    return range(first, last + 1)


def format_numbers(numbers: Sequence[int]) -> str:
    """As parse_numbers() reads them, runs as runs."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in _runs(numbers))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for number in numbers:
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
