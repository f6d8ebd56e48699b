"""Members that are whole on tape and not safe yet: they wait for their checkpoint, then for the snapshot to be told.

They are kept in memory meanwhile, so there is a checkpoint before they are too many, or too large: a file may have a
megabyte of attributes, or a million extents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from appliance.backup.archive import Member

CHECKPOINT_FILES: Final = 50_000
CHECKPOINT_MEMORY_BYTES: Final = 128 << 20


class PendingMembers:
    """members: those that are not durable, in their order, each with the number of its volume."""

    def __init__(self) -> None:
        self.members: list[tuple[int, Member]] = []
        self._memory_bytes = 0
        self._durable: deque[Member] = deque()  # and not given back yet

    def add(self, volume: int, member: Member) -> None:
        """One more is whole on tape."""
        self.members.append((volume, member))
        self._memory_bytes += member.memory_bytes

    @property
    def are_many(self) -> bool:
        """Whether a checkpoint is due for their sake."""
        return len(self.members) >= CHECKPOINT_FILES or self._memory_bytes >= CHECKPOINT_MEMORY_BYTES

    def forget(self) -> None:
        """They have to be written again."""
        self.members, self._memory_bytes = [], 0

    def safe(self, needed: int | None) -> dict[int, list[tuple[int, int]]]:
        """All of them are durable now. By disk, (offset, length) in bytes of what nobody reads again: of every member,
        or of those before the number `needed`."""
        self._durable.extend(member for _, member in self.members)
        self.forget()
        found: dict[int, list[tuple[int, int]]] = {}
        while self._durable and (needed is None or self._durable[0].number < needed):
            member = self._durable.popleft()
            if member.entry.extents:
                found.setdefault(member.disk, []).extend((at, length) for _, at, length in member.entry.extents)
        return {disk: joined(extents) for disk, extents in found.items()}


def joined(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, length) in the order of the disk, those that touch as one."""
    found: list[tuple[int, int]] = []
    begin = end = -1
    for offset, length in sorted(extents):
        if offset > end:
            if end > begin:
                found.append((begin, end - begin))
            begin, end = offset, offset + length
        else:
            end = max(end, offset + length)
    if end > begin:
        found.append((begin, end - begin))
    return found
