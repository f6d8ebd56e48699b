"""The audit record: who changed what, when. It is written in the transaction of the change itself."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select

from vlib_images.library.actor import actor
from vlib_images.library.database import schema

KEPT_EVENTS: Final = (
    200_000  # about 20 MB, read at each start; a peer that changes its reservation for ever does not fill the disk
)


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


def record(connection: Connection, happened: Iterable[Event]) -> None:
    """Write events within a transaction."""
    now = time.time_ns() // 1000
    rows = [
        {
            "at_microseconds": now,
            "actor": actor(),
            "action": event.action,
            "subject": event.subject,
            "details": json.dumps(event.details, sort_keys=True),
        }
        for event in happened
    ]
    if rows:
        connection.execute(insert(schema.events), rows)


def forget_oldest(connection: Connection, kept: int = KEPT_EVENTS) -> None:
    """Delete all but the newest `kept` events, within a transaction."""
    newest = connection.scalar(select(func.max(schema.events.c.id)))
    if newest is not None:
        connection.execute(delete(schema.events).where(schema.events.c.id <= newest - kept))


def latest(connection: Connection, count: int) -> list[RecordedEvent]:
    """The newest `count` events, newest first."""
    rows = connection.execute(select(schema.events).order_by(schema.events.c.id.desc()).limit(count))
    return [
        RecordedEvent(row.action, row.subject, json.loads(row.details), row.id, row.at_microseconds, row.actor)
        for row in rows
    ]
