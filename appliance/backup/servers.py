"""What each server has to do with a backup, and what that cost it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ServerPart:
    """Of one server whose agent takes part. snapshot: that it holds, of these disks of the library; None: it has not
    come yet. content_bytes: of the files that it listed. network_bytes: all that crossed its network for the backup, as
    far as the agent sees it; payload_bytes: what of them was content of files. processor_seconds: of the agent and what
    it started."""

    server: str
    snapshot: str | None = None
    disks: tuple[str, ...] = ()
    content_bytes: int = 0
    payload_bytes: int = 0
    network_bytes: int = 0
    processor_seconds: float = 0.0

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises TypeError for what is none."""
        return cls(**{**document, "disks": tuple(document["disks"])})
