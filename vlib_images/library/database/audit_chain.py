"""The chain over the audit record: each event carries a hash over itself and the hash of the event before it.

Whoever changes, removes, inserts or reorders rows breaks it, and verify() names where. Two marks stand beside the rows:
`anchor`, the newest event that was pruned, and `head`, the newest of all, so that rows are not missed at the ends
either. Somebody who may write to the database can make all of it anew; against that a number and hash that were kept
elsewhere (`known`) help, since nothing else leads to the same hash.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, select

from vlib_images.library.database import schema

GENESIS: Final = "0" * 64  # stands before the first event
ANCHOR, HEAD = "anchor", "head"
MOST_FAULTS: Final = 1000
ROWS_AT_ONCE: Final = 1000

_events, _marks = schema.events, schema.audit_marks


class ChainMark(NamedTuple):
    """An event's number and hash."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the record, and at which event; 0: with the record as a whole."""

    number: int
    problem: str


@dataclass(slots=True)
class ChainVerification:
    """What verify() found. first, last: of the events that there are, 0 when there are none; head: the last one."""

    events: int = 0
    first: int = 0
    head: ChainMark = field(default_factory=lambda: ChainMark(0, GENESIS))
    faults: list[Fault] = field(default_factory=list)


def hash_of(before: str, number: int, at_microseconds: int, actor: str, action: str, subject: str, details: str) -> str:
    """Of one event, with the hash of the one before it."""
    content = json.dumps([before, number, at_microseconds, actor, action, subject, details], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def marks(connection: Connection) -> dict[str, ChainMark]:
    """Those that there are."""
    return {row.name: ChainMark(row.number, row.hash) for row in connection.execute(select(_marks))}


def newest(connection: Connection) -> ChainMark:
    """What the next event follows. A head that is missing is not made anew, so that verify() says that it is."""
    if (head := marks(connection).get(HEAD)) is not None:
        return head
    row = connection.execute(select(_events.c.id, _events.c.hash).order_by(_events.c.id.desc()).limit(1)).one_or_none()
    return ChainMark(0, GENESIS) if row is None else ChainMark(row.id, row.hash)


def verify(
    connection: Connection,
    known: ChainMark | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ChainVerification:
    """Follow the chain from the anchor to the head. known: what the hash of an event was once."""
    at = marks(connection)
    found = ChainVerification()
    faults = _walk(connection, at, found, known, progress)
    for fault in faults:
        found.faults.append(fault)
        if len(found.faults) == MOST_FAULTS:
            found.faults.append(Fault(0, "there is more; this is enough"))
            break
    return found


def _walk(
    connection: Connection,
    at: dict[str, ChainMark],
    found: ChainVerification,
    known: ChainMark | None,
    progress: Callable[[int, int], None],
) -> Iterator[Fault]:
    for name in (ANCHOR, HEAD):
        if name not in at:
            yield Fault(0, f"the mark of the {'newest event' if name == HEAD else 'newest pruned event'} is missing")
    before = anchor = at.get(ANCHOR, ChainMark(0, GENESIS))
    head = at.get(HEAD)
    known_seen = known is None or known == anchor
    for row in _rows(connection):
        found.events += 1
        found.first = found.first or row.id
        yield from _faults_of(row, before, anchor)
        before = ChainMark(row.id, row.hash)
        if known is not None and row.id == known.number:
            known_seen = True
            if row.hash != known.hash:
                yield Fault(row.id, f"event {row.id} is not the one whose hash was {known.hash}")
        if found.events % ROWS_AT_ONCE == 0:
            progress(row.id - anchor.number, (head or before).number - anchor.number)
    found.head = before
    if head is not None:
        yield from _faults_at_the_end(before, head)
    if known is not None and not known_seen:
        where = "has been pruned" if known.number <= anchor.number else "is not there"
        yield Fault(known.number, f"event {known.number} {where}, so its hash cannot be compared")


def _rows(connection: Connection) -> Iterator[Row[Any]]:
    return iter(connection.execution_options(yield_per=ROWS_AT_ONCE).execute(select(_events).order_by(_events.c.id)))


def _faults_of(row: Row[Any], before: ChainMark, anchor: ChainMark) -> Iterator[Fault]:
    if row.id <= anchor.number:
        yield Fault(row.id, f"event {row.id} was pruned, and is there again")
        return
    if row.id != before.number + 1:
        yield _missing(max(before.number, anchor.number) + 1, row.id - 1)
        return  # what it follows is not known any more
    values = row.at_microseconds, row.actor, row.action, row.subject, row.details
    try:
        right = hash_of(before.hash, row.id, *values) == row.hash
    except (TypeError, ValueError):  # a value of another type
        right = False
    if not right:
        which = f" or event {before.number}" if before.number > anchor.number else ""
        yield Fault(row.id, f"event {row.id}{which} is not what was written: changed, or put in another's place")


def _faults_at_the_end(last: ChainMark, head: ChainMark) -> Iterator[Fault]:
    if last.number < head.number:
        yield _missing(last.number + 1, head.number)
    elif last.number > head.number:
        yield Fault(head.number + 1, f"events after {head.number} were not written by the library")
    elif last.hash != head.hash:
        yield Fault(
            last.number, f"event {last.number} is not the newest that was written, or the mark of it was changed"
        )


def _missing(first: int, last: int) -> Fault:
    what = f"event {first} is" if first == last else f"events {first} to {last} are"
    return Fault(first, f"{what} missing")
