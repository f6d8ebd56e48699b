"""Patterns of names and of barcodes: * is any characters, also none; ? is any one."""

from __future__ import annotations

from collections.abc import Sequence


def overlap(one: str, other: str) -> bool:
    """Whether some text matches both patterns. It takes time by the product of their lengths at most."""
    if one == "*" or other == "*":
        return True
    after = [False] * (len(other) + 1)  # for the rest of `one` after this character: which rests of `other` overlap
    after[-1] = True
    for place in range(len(other) - 1, -1, -1):
        after[place] = other[place] == "*" and after[place + 1]
    for character in reversed(one):
        after = _rests(character, other, after)
    return after[0]


def _rests(character: str, other: str, after: Sequence[bool]) -> list[bool]:
    here = [False] * (len(other) + 1)
    here[-1] = character == "*" and after[-1]
    for place in range(len(other) - 1, -1, -1):
        theirs = other[place]
        if character == "*" or theirs == "*":
            here[place] = after[place] or here[place + 1]  # a star takes the other's next, or is nothing
        else:
            here[place] = (character == theirs or "?" in (character, theirs)) and after[place + 1]
    return here
