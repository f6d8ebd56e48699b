"""Numbered signals: lost, late or doubled, each of them has its effect once.

Each sender numbers its own, from 1. One that came already has no effect any more; one that comes too early is refused.
Whoever got no answer asks for the state, which says the last number that came, and sends again.
"""

from __future__ import annotations

from typing import Final

MOST_SENDERS: Final = 8  # an agent, an application, a mover; and some to spare


class OutOfTurn(Exception):
    """A signal that is not the next of its sender; str() says which is."""


class Signals:
    """The last number of each sender. Not thread-safe."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}

    def is_new(self, sender: str, number: int) -> bool:
        """False: it came before. Raises OutOfTurn."""
        last = self.last.get(sender, 0)
        if sender not in self.last and len(self.last) >= MOST_SENDERS:
            raise OutOfTurn(f"{MOST_SENDERS} senders have signalled already; {sender} is one too many")
        if number > last + 1:
            raise OutOfTurn(f"signal {number} of {sender} is not the next: send {last + 1} first")
        return number == last + 1

    def took_effect(self, sender: str, number: int) -> None:
        """Only now: one that was refused may be sent again, mended."""
        self.last[sender] = number
