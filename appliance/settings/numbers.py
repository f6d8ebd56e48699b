"""Numbers of slots as people write them: 1-20,25."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

_RUN = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", re.ASCII)
LARGEST_NUMBER = 65535  # of elements that a media changer can have


@lru_cache(maxsize=64)
def parse_numbers(text: str) -> tuple[int, ...]:
    """The numbers of "1-20,25", in the order in which they are written; none of "". Raises ValueError that says what
    numbers look like, or which one is given twice."""
    numbers: dict[int, None] = {}  # in their order
    for part in filter(None, map(str.strip, text.split(","))):
        for number in _run(text, part):
            if number in numbers:
                raise ValueError(f"{_short(text)} has {number} twice")
            numbers[number] = None
    return tuple(numbers)


def _run(text: str, part: str) -> range:
    found = _RUN.fullmatch(part)
    if found is None:
        raise ValueError(f'{_short(text)} are no numbers of slots; write for example "1-20" or "1-10,15,20-25"')
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= LARGEST_NUMBER:
        raise ValueError(f"{_short(part)} is no run of slots: from 1 to {LARGEST_NUMBER}, the lower number first")
    return range(first, last + 1)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def format_numbers(numbers: Sequence[int]) -> str:
    """As parse_numbers() reads them, runs as runs."""
    runs = ([number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]))
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
