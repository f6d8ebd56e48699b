"""The backups that an increment rests on: a full one and the increments after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

from appliance.backup.catalogue import Catalogue, CatalogueDamaged, File, Kept, Volume


@dataclass
class Link:
    """One of them. number: as the library counts its backups."""

    number: int
    catalogue: Catalogue

    @cached_property
    def volumes(self) -> dict[int, Volume]:
        """Its cartridges, by number."""
        return {volume.number: volume for volume in self.catalogue.volumes()}


@dataclass(slots=True)
class Chain:
    """A backup and those that it rests on, which are opened when they are asked for. open_other: by identifier; None:
    there is none. close() it."""

    itself: Link
    open_other: Callable[[str], Link | None]
    _others: dict[int, Link] = field(default_factory=dict)

    def of(self, origin: int | None) -> Link:
        """The one with this number in the chain, the full one first; None: the backup itself. Raises CatalogueDamaged,
        OSError."""
        if origin is None:
            return self.itself
        if origin not in self._others:
            identifiers = self.itself.catalogue.facts().get("chain") or []
            found = self.open_other(identifiers[origin]) if 0 <= origin < len(identifiers) else None
            if found is None:
                message = f"backup {self.itself.number} rests on one that is not known here"
                raise CatalogueDamaged(f"{message}; read it back: tapebay catalogue rebuild CARTRIDGE")
            self._others[origin] = found
        return self._others[origin]

    def pieces(self, kept: Kept) -> list[tuple[Link, File]]:
        """What a file is made of, in this order: itself, and of an image what later increments have changed. Raises
        CatalogueDamaged, OSError."""
        name, made = os.fsdecode(kept.file.name), [(self.of(kept.origin), kept.file)]
        if kept.origin is not None:
            later = range(kept.origin + 1, len(self.itself.catalogue.facts()["chain"]))
            for link in (*map(self.of, later), self.itself):
                changes = (link.catalogue.facts().get("images") or {}).get(name)
                if changes is not None:
                    made += [(link, file) for file in link.catalogue.find(os.fsencode(changes), 2)]
        return made

    def close(self) -> None:
        """All catalogues."""
        with ExitStack() as closing:
            for link in (self.itself, *self._others.values()):
                closing.callback(link.catalogue.close)
