"""Requests as rows of the library's database: one transaction for each step, with its audit event."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Required, Self, TypedDict, Unpack

from sqlalchemy import Connection, delete, insert, select, update

from appliance.access.keys import ALL_DRIVES
from appliance.broker.states import RequestState, RequestStep, after
from scsi_targets.devices.unit.principal import Permission
from vlib_images.library.actor import OPERATOR, actor
from vlib_images.library.database import schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import Event

MOST_LIVE: Final = 1000
MOST_OVER: Final = 1000  # of those that are over the newest are kept, to be looked at
READ: Final = Permission.READ_DATA | Permission.READ_PARAMETERS | Permission.WRITE_PARAMETERS | Permission.RESERVE
WRITE: Final = READ | Permission.WRITE_DATA

_table = schema.requests


class TooManyRequests(Exception):
    """So many requests are waiting or served that another one is refused."""


class NoSuchRequest(Exception):
    """There is no request of that name."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One logical unit that is asked for: a drive with a volume (None: a scratch one), or the device of that name,
    which only grants show: a snapshot's, for example. group: of which drives. pool: that the volume is of; None: a
    scratch one is of no pool, one that is named of any."""

    write: bool = True
    volume: str | None = None
    device: str | None = None
    group: str = ALL_DRIVES
    pool: str | None = None

    @property
    def permissions(self) -> Permission:
        """What the host may do with it."""
        return WRITE if self.write else READ


@dataclass(frozen=True, slots=True)
class RequestedUnit:
    """One logical unit of a grant: the device, by its LUN behind the gate and its name, what it may be used for, and
    the volume that it is to hold (None: it is no drive).

    key_lun: what the key says for the LUN where the gate chooses the drive; until it has, `device` is empty and `lun`
    the same."""

    lun: int
    device: str
    permissions: Permission
    volume: str | None = None
    key_lun: int | None = None

    @property
    def named(self) -> int:
        """As the key names it."""
        return self.lun if self.key_lun is None else self.key_lun

    def to_json(self) -> dict[str, Any]:
        """For the row."""
        return {**dataclasses.asdict(self), "permissions": self.permissions.value}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises ValueError, TypeError for what to_json() does not make."""
        return cls(**{**document, "permissions": Permission(document["permissions"])})


@dataclass(frozen=True, slots=True)
class Request:
    """name: 16 hexadecimal digits; the grant has the same. wanted: one or more, all of which are granted at once or
    none. units, key_version, key_expires_at_ms: what was decided when it was placed. ends_as: what it becomes once
    its drives are free. reason: why it ended, in an operator's words."""

    name: str
    number: int
    created_at_ms: int
    initiator: str
    wanted: tuple[Wanted, ...]
    lease_seconds: float
    state: RequestState = RequestState.QUEUED
    units: tuple[RequestedUnit, ...] = ()
    key_version: int = 0
    key_expires_at_ms: int = 0
    ends_as: RequestStep = RequestStep.FREE
    reason: str = ""
    by_gate: bool = False
    priority: int = 0
    tag: str = ""
    owner: str = OPERATOR
    port: tuple[str, int] | None = None

    @property
    def chosen(self) -> bool:
        """Whether each unit has its device."""
        return all(unit.device for unit in self.units)

    @property
    def grant(self) -> bytes:
        """As keys name it."""
        return bytes.fromhex(self.name)

    def to_json(self) -> dict[str, Any]:
        """For the row."""
        units = [unit.to_json() for unit in self.units]
        return {**dataclasses.asdict(self), "state": self.state.value, "ends_as": self.ends_as.value, "units": units}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises KeyError, ValueError, TypeError for what to_json() does not make."""
        given = {
            **document,
            "state": RequestState(document["state"]),
            "ends_as": RequestStep(document["ends_as"]),
            "wanted": tuple(Wanted(**wanted) for wanted in document["wanted"]),
            "units": tuple(RequestedUnit.from_json(unit) for unit in document["units"]),
            "port": None if document["port"] is None else (str(document["port"][0]), int(document["port"][1])),
        }
        return cls(**given)


class Options(TypedDict, total=False):
    """What of a request may be said beside what is wanted."""

    lease_seconds: Required[float]
    by_gate: bool
    priority: int
    tag: str


class Requests:
    """All of them, in memory as in the database. Thread-safe; one step at a time: none is made by others while somebody
    holds `changing`. What a step that raises would have changed stays as it was."""

    def __init__(self, database: Database) -> None:
        """Raises StateDamaged, OSError."""
        self._database = database
        self.changing = threading.RLock()
        self.read_again()

    def read_again(self) -> None:
        """What the database has: a thread that ended in the middle of a step has not said whether it was made. Raises
        StateDamaged, OSError."""
        with self.changing:
            self._all = {request.name: request for request in _load(self._database)}

    def all(self) -> list[Request]:
        """In the order in which they were made."""
        return sorted(self._all.copy().values(), key=lambda request: request.number)

    def get(self, name: str) -> Request:
        """Raises NoSuchRequest."""
        try:
            return self._all[name]
        except KeyError:
            raise NoSuchRequest(f"there is no request {name}; see: tapebay requests") from None

    def create(self, initiator: str, wanted: tuple[Wanted, ...], **options: Unpack[Options]) -> Request:
        """A new one, queued. Raises TooManyRequests, OSError."""
        with self.changing:
            over = [request for request in self.all() if request.state.over]
            if len(self._all) - len(over) >= MOST_LIVE:
                raise TooManyRequests(f"{MOST_LIVE} requests are waiting or served; release some, or try again later")
            number = 1 + max((request.number for request in self._all.values()), default=0)
            now_ms = time.time_ns() // 1_000_000
            made = Request(secrets.token_hex(8), number, now_ms, initiator, wanted, owner=actor(), **options)
            details = {"initiator": initiator, "wanted": [dataclasses.asdict(each) for each in wanted]}
            forgotten = [request.name for request in over[: max(0, len(over) + 1 - MOST_OVER)]]
            with self._database.change(Event("request made", made.name, details)) as connection:
                connection.execute(insert(_table), [_row(made)])
                if forgotten:
                    connection.execute(delete(_table).where(_table.c.name.in_(forgotten)))
            self._all[made.name] = made
            for name in forgotten:
                del self._all[name]
            return made

    def step(self, name: str, step: RequestStep, **changes: Any) -> Request:
        """One step of a request, with what it decides. Raises NotNow, NoSuchRequest, OSError."""
        with self.changing:
            before = self.get(name)
            request = dataclasses.replace(before, state=after(before.state, step), **changes)
            details = {"from": before.state.value, **_told(changes)}
            with self._database.change(Event(f"request {step.value}", name, details)) as connection:
                _put(connection, request)
            self._all[name] = request
            return request


def _told(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in changes.items()}


def _plain(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, RequestedUnit):
        return value.to_json()
    return value.value if isinstance(value, RequestStep) else value


def _put(connection: Connection, request: Request) -> None:
    connection.execute(update(_table).where(_table.c.name == request.name).values(_row(request)))


def _row(request: Request) -> dict[str, Any]:
    document = json.dumps(request.to_json(), sort_keys=True, separators=(",", ":"))
    return schema.seal(_table, {"name": request.name, "document": document})


def _load(database: Database) -> list[Request]:
    with database.read() as connection:
        rows = list(connection.execute(select(_table)))
    found = []
    for row in rows:
        if not schema.is_sealed(_table, row):
            raise StateDamaged(database.path, f"damaged: request {row.name} fails its checksum")
        try:
            found.append(Request.from_json(json.loads(row.document)))
        except (KeyError, TypeError, ValueError) as error:
            raise StateDamaged(database.path, f"request {row.name} cannot be read: {error}") from error
    return found
