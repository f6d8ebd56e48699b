"""Backups as rows of the library's database: what each is to do, how it stands, and why it ended."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from sqlalchemy import Connection, delete, insert, select

from appliance.backup.servers import ServerPart
from vlib_images.library.database import schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import Event

_table = schema.backups


class BackupState(Enum):
    """RUNNING has a thread in this process; what was RUNNING at a start is INTERRUPTED. LOST: another was written over
    a cartridge of it, or of one that it rests on. All but RUNNING, DONE and LOST can be resumed."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    LOST = "lost"


# Whatever is not here cannot happen.
_FOLLOWS: Final = {
    BackupState.RUNNING: (BackupState.DONE, BackupState.FAILED, BackupState.CANCELLED, BackupState.INTERRUPTED),
    BackupState.FAILED: (BackupState.RUNNING, BackupState.LOST),
    BackupState.CANCELLED: (BackupState.RUNNING, BackupState.LOST),
    BackupState.INTERRUPTED: (BackupState.RUNNING, BackupState.LOST),
    BackupState.DONE: (BackupState.LOST,),
    BackupState.LOST: (),
}


class NoSuchBackup(Exception):
    """There is no backup of that number."""


class BackupStateError(Exception):
    """A step that does not follow the state; str() says so to an operator."""


@dataclass(frozen=True, slots=True)
class Backup:
    """identifier: on its tapes and of its catalogue; 32 hexadecimal digits. cartridges: in the order of their use, and
    those to use next. snapshot: the one whose files an agent has listed; None: one is made of the disks.
    checkpoint_bytes: about how much lies between two checkpoints. reason: why it ended, in an operator's words. files,
    content_bytes: of all of it, once they are known. selection: which files of the disks, in an agent's words; an
    increment follows a backup of the same. incremental: asked for; since: the number of the backup that it follows, and
    full_because: why it is a full one all the same. servers: whose agents take part.
    processor_seconds: of the daemon while it ran."""

    number: int
    identifier: str
    disks: tuple[str, ...]
    cartridges: tuple[str, ...]
    created_at: float
    state: BackupState = BackupState.RUNNING
    ended_at: float | None = None
    drive: str | None = None
    raw: bool = False
    overwrite: bool = False
    checkpoint_bytes: int = 4 << 30
    reason: str = ""
    files: int = 0
    content_bytes: int = 0
    skipped: int = 0
    snapshot: str | None = None
    selection: str = ""
    incremental: bool = False
    since: int | None = None
    full_because: str = ""
    servers: tuple[ServerPart, ...] = ()
    processor_seconds: float = 0.0

    @property
    def snapshots(self) -> set[str]:
        """Those of agents that it writes."""
        return {name for name in (self.snapshot, *(part.snapshot for part in self.servers)) if name is not None}

    @property
    def listed_disks(self) -> set[str]:
        """Those whose files agents of several servers have listed."""
        return {disk for part in self.servers if part.snapshot is not None for disk in part.disks}

    def to_json(self) -> dict[str, Any]:
        """For the row."""
        return {**dataclasses.asdict(self), "state": self.state.value}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises TypeError, ValueError for what to_json() does not make."""
        lists = {name: tuple(document[name]) for name in ("disks", "cartridges")}
        servers = tuple(map(ServerPart.from_json, document.get("servers", ())))
        return cls(**{**document, **lists, "servers": servers, "state": BackupState(document["state"])})


class Backups:
    """All of them, in memory as in the database. Thread-safe. What a change that raises would have changed stays.
    changing: nobody else makes a step while it is held; who waits on it for a step lets others make theirs."""

    def __init__(self, database: Database) -> None:
        """What was running is interrupted now. Raises StateDamaged, OSError."""
        self._database = database
        self.changing = threading.Condition(threading.RLock())
        self._all = {backup.number: backup for backup in _load(database)}
        for backup in self.all():
            if backup.state is BackupState.RUNNING:
                reason = "the daemon ended while it ran; go on: tapebay backup resume"
                self.step(backup.number, BackupState.INTERRUPTED, reason=reason)

    def all(self) -> list[Backup]:
        """The oldest first."""
        return sorted(self._all.copy().values(), key=lambda backup: backup.number)

    def get(self, number: int) -> Backup:
        """Raises NoSuchBackup."""
        try:
            return self._all[number]
        except KeyError:
            raise NoSuchBackup(f"there is no backup {number}; see: tapebay backup list") from None

    def add(self, identifier: str, disks: tuple[str, ...], cartridges: tuple[str, ...], **more: Any) -> Backup:
        """A new one. Raises BackupStateError where another one writes the same snapshot, or what it follows is lost;
        OSError."""
        with self.changing:
            made = Backup(1 + max(self._all, default=0), identifier, disks, cartridges, time.time(), **more)
            self._refuse_second(made)
            self._refuse_lost(made)
            details = {"disks": list(disks), "cartridges": list(cartridges)}
            with self._database.change(Event("backup begun", str(made.number), details)) as connection:
                connection.execute(insert(_table), [_row(made)])
            self._all[made.number] = made
            return made

    def step(self, number: int, state: BackupState, **changes: Any) -> Backup:
        """Another state. Raises BackupStateError, NoSuchBackup, OSError."""
        with self.changing:
            before = self.get(number)
            if state not in _FOLLOWS[before.state]:
                raise BackupStateError(
                    f"backup {number} is {before.state.value}, and so it cannot become {state.value}"
                )
            if state is BackupState.RUNNING:
                self._refuse_second(before)
            ended = None if state is BackupState.RUNNING else time.time()
            return self._put(dataclasses.replace(before, state=state, ended_at=ended, **changes), state.value)

    def _refuse_second(self, backup: Backup) -> None:
        """A snapshot is given back by the backup that writes it, so no other may. Raises BackupStateError."""
        for other in self._all.values():
            shared = other.snapshots & backup.snapshots if other.state is BackupState.RUNNING else None
            if shared:
                raise BackupStateError(f"backup {other.number} writes snapshot {', '.join(shared)} already")

    def _refuse_lost(self, backup: Backup) -> None:
        """An increment rests on one that is there. Raises BackupStateError."""
        base = self._all.get(backup.since) if backup.since is not None else None
        if backup.state is BackupState.RUNNING and base is not None and base.state is BackupState.LOST:
            raise BackupStateError(f"backup {base.number} is lost: {base.reason}")

    def resting_on(self, numbers: Collection[int]) -> list[Backup]:
        """These backups, and all increments that rest on one of them, the oldest first."""
        found = set(numbers)
        for backup in self.all():  # an increment comes after what it follows
            if backup.since in found:
                found.add(backup.number)
        return [self.get(number) for number in sorted(found)]

    def lose(self, numbers: Collection[int], reason: str) -> list[Backup]:
        """What these have on tape goes: they are LOST, and so is every increment that rests on one of them. All of
        these. Raises BackupStateError where one of them runs, OSError."""
        with self.changing:
            lost = self.resting_on(numbers)
            if running := [backup.number for backup in lost if backup.state is BackupState.RUNNING]:
                raise BackupStateError(f"backup {running[0]} runs and has files there, or rests on one that has")
            told = [backup for backup in lost if backup.state is not BackupState.LOST]
            made = [dataclasses.replace(backup, state=BackupState.LOST, reason=reason) for backup in told]
            if made:
                self._put_all(made, "lost")
            return lost

    def ended_unkept(self, number: int, state: BackupState, reason: str) -> None:
        """It has ended, though the database takes nothing now: so it can be resumed as soon as that does. For whoever
        starts on the database as it is, it was interrupted; one that was done is so too, and is soon done again."""
        state = BackupState.INTERRUPTED if state is BackupState.DONE else state
        with self.changing:
            ended = dataclasses.replace(self.get(number), state=state, reason=reason, ended_at=time.time())
            self._all[number] = ended

    def note(self, number: int, **changes: Any) -> Backup:
        """What was found out. Raises NoSuchBackup, OSError."""
        with self.changing:
            return self._put(dataclasses.replace(self.get(number), **changes), "counted")

    def note_server(self, number: int, server: str, **changes: Any) -> Backup:
        """What a server that takes part has done. Raises BackupStateError where it does not, NoSuchBackup, OSError."""
        with self.changing:
            backup = self.get(number)
            if server not in {part.server for part in backup.servers}:
                raise BackupStateError(f"server {server} has no part in backup {number}")
            parts = (dataclasses.replace(part, **changes) if part.server == server else part for part in backup.servers)
            return self._put(dataclasses.replace(backup, servers=tuple(parts)), f"noted for {server}")

    def _put(self, backup: Backup, what: str) -> Backup:
        self._put_all([backup], what)
        return backup

    def _put_all(self, backups: list[Backup], what: str) -> None:
        """In one transaction."""
        events = [Event(f"backup {what}", str(backup.number), {"reason": backup.reason}) for backup in backups]
        with self._database.change(*events) as connection:
            for backup in backups:
                connection.execute(delete(_table).where(_table.c.number == backup.number))
                connection.execute(insert(_table), [_row(backup)])
        self._all |= {backup.number: backup for backup in backups}

    def forget(self, number: int) -> None:
        """One that does not run. Raises BackupStateError, NoSuchBackup, OSError."""
        with self.changing:
            if self.get(number).state is BackupState.RUNNING:
                raise BackupStateError(f"backup {number} runs; cancel it first: tapebay backup cancel {number}")
            with self._database.change(Event("backup forgotten", str(number))) as connection:
                connection.execute(delete(_table).where(_table.c.number == number))
            del self._all[number]


def _row(backup: Backup) -> dict[str, Any]:
    document = json.dumps(backup.to_json(), sort_keys=True, separators=(",", ":"))
    return schema.seal(_table, {"number": backup.number, "document": document})


def _rows(connection: Connection) -> list[Any]:
    return list(connection.execute(select(_table)))


def _load(database: Database) -> list[Backup]:
    with database.read() as connection:
        rows = _rows(connection)
    for row in rows:
        if not schema.is_sealed(_table, row):
            raise StateDamaged(database.path, f"damaged: backup {row.number} fails its checksum")
    return [Backup.from_json(json.loads(row.document)) for row in rows]
