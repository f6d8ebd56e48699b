"""The audit record: who changed what, when. It is written in the transaction of the change itself."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, true, update

from vlib_images.library.actor import actor
from vlib_images.library.database import audit_chain, schema
from vlib_images.library.database.audit_chain import ANCHOR, HEAD, ChainMark, hash_of

KEPT_EVENTS: Final = (
    200_000  # about 40 MB, read at each start; a peer that changes its reservation for ever does not fill the disk
)

_events, _marks = schema.events, schema.audit_marks


@dataclass(frozen=True, slots=True)
class Event:
    """One change. action: what was done ("cartridge moved"); subject: to what (a barcode, a device); details: JSON."""

    action: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedEvent(Event):
    """An event as it stands in the database. at_microseconds: since 1970-01-01 00:00 UTC."""

    number: int = 0
    at_microseconds: int = 0
    actor: str = ""


def record(connection: Connection, happened: Iterable[Event]) -> int:
    """Write events within a transaction; the number of the last one, or 0 without any."""
    now = time.time_ns() // 1000
    rows: list[dict[str, Any]] = []
    at = None
    for event in happened:
        at = at or audit_chain.newest(connection)
        details = json.dumps(event.details, sort_keys=True)
        values = (now, actor(), event.action, event.subject, details)
        at = ChainMark(at.number + 1, hash_of(at.hash, at.number + 1, *values))
        names = ("at_microseconds", "actor", "action", "subject", "details")
        rows.append({"id": at.number, **dict(zip(names, values, strict=True)), "hash": at.hash})
    if at is None:
        return 0
    connection.execute(insert(_events), rows)
    _set_mark(connection, HEAD, at)
    return at.number


def forget_oldest(connection: Connection, kept: int = KEPT_EVENTS) -> None:
    """Delete all but the newest `kept` events, within a transaction. The newest of them becomes the chain's anchor."""
    last = audit_chain.newest(connection).number - kept
    row = connection.execute(select(_events.c.id, _events.c.hash).where(_events.c.id == last)).one_or_none()
    if row is not None:
        _set_mark(connection, ANCHOR, ChainMark(row.id, row.hash))
        connection.execute(delete(_events).where(_events.c.id <= last))


def latest(connection: Connection, count: int, *, action: str = "", subject: str = "") -> list[RecordedEvent]:
    """The newest `count` events, newest first; of that action or subject only, if given."""
    where = _of(action, subject)
    return [
        _event(row)
        for row in connection.execute(select(_events).where(where).order_by(_events.c.id.desc()).limit(count))
    ]


def after(
    connection: Connection, number: int, count: int, *, action: str = "", subject: str = ""
) -> list[RecordedEvent]:
    """The `count` events that follow event `number`, in their order."""
    where = and_(_events.c.id > number, _of(action, subject))
    return [_event(row) for row in connection.execute(select(_events).where(where).order_by(_events.c.id).limit(count))]


def pruned_to(connection: Connection) -> int:
    """The number of the newest event that is no longer kept."""
    return audit_chain.marks(connection).get(ANCHOR, ChainMark(0, "")).number


def newest_number(connection: Connection) -> int:
    """Of the newest event; 0: there was never any."""
    return audit_chain.newest(connection).number


def begin(connection: Connection) -> None:
    """The marks of a new database, within the transaction that makes it."""
    rows = [{"name": name, "number": 0, "hash": audit_chain.GENESIS} for name in (ANCHOR, HEAD)]
    connection.execute(insert(_marks), rows)


def _of(action: str, subject: str) -> ColumnElement[bool]:
    wanted = [_events.c.action == action] if action else []
    wanted += [_events.c.subject == subject] if subject else []
    return and_(true(), *wanted)


def _set_mark(connection: Connection, name: str, mark: ChainMark) -> None:
    connection.execute(update(_marks).where(_marks.c.name == name).values(number=mark.number, hash=mark.hash))


def _event(row: Row[Any]) -> RecordedEvent:
    """Of a row that is damaged, what can be told of it: audit_chain.verify() names it."""
    at = row.at_microseconds if isinstance(row.at_microseconds, int) else 0
    return RecordedEvent(_text(row.action), _text(row.subject), _details(row.details), row.id, at, _text(row.actor))


def _details(document: Any) -> dict[str, Any]:
    try:
        found = _JSON.decode(document) if isinstance(document, str) else None
        if isinstance(found, dict) and ("\\u" not in document or json.dumps(found, ensure_ascii=False).encode()):
            return found
    except (ValueError, RecursionError):  # UnicodeError: half of a surrogate pair, which is no text
        pass
    return {"damaged": _text(document)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse)
