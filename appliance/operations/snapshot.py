"""Snapshots of disks: several at one instant, held while they are copied, with what they take and for how long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import (
    OPTIONAL_SIZE,
    Nothing,
    OnLibrary,
    Parameters,
    Positional,
    Result,
    Scope,
    Volatile,
    verb,
)

if TYPE_CHECKING:
    from appliance.library.snapshots.kept_set import KeptSet

Name = Annotated[
    str, Positional("SNAPSHOT"), Field(description="What `tapebay snapshot list` calls it: 16 digits and letters.")
]
ByteRange = Annotated[tuple[int, int], Field(strict=False)]  # JSON has lists only
ByteRanges = Annotated[
    dict[str, list[ByteRange]], Field(description="(offset, length) in bytes, by disk; 10,000 at a time.")
]
Signal = Literal[
    "list-begin", "list-part", "list-end", "accepted", "started", "checkpoint", "failed", "done", "released"
]
DEFAULT_HOLD_SECONDS = 24 * 3600.0


class DiskOfSnapshot(Result):
    """One disk of a snapshot. live_bytes are still read from the disk itself, saved_bytes from the snapshot's store."""

    disk: str
    size_bytes: int
    live_bytes: Annotated[int, Volatile()]
    saved_bytes: Annotated[int, Volatile()]
    retired_bytes: Annotated[int, Volatile()] = Field(description="Given back: safe elsewhere, or not wanted.")
    device: str = Field(description="What a request for the snapshot's logical unit calls it.")
    mark: str | None = Field(description="Names the instant, for increments on it; none where changes are not counted.")


class SnapshotDetails(Result):
    """A snapshot of one disk or several at one instant. seconds_left: until it expires if nothing happens."""

    snapshot: str
    state: str
    reason: str = Field(description="Why it is over, or why its last copy failed.")
    disks: list[DiskOfSnapshot]
    stored_bytes: Annotated[int, Volatile()]
    budget_bytes: int
    age_seconds: Annotated[float, Volatile()]
    seconds_left: Annotated[float | None, Volatile()]
    release: str
    checkpoint: Annotated[int, Volatile()]
    signals: dict[str, int] = Field(description="The last number that came of each sender of signals.")


class CreateSnapshot(Parameters):
    disks: Annotated[
        str, Positional("DISKS"), Field(description="One disk, or several with commas: all at one instant.")
    ]
    budget: Annotated[
        str | None,
        OPTIONAL_SIZE,
        Field(description="The most that it may store, claimed at once; by default a fifth of the disks."),
    ] = None
    hold_seconds: Annotated[
        float, Field(gt=0, le=30 * 86400, description="It expires after that, unless it is released before.")
    ] = DEFAULT_HOLD_SECONDS
    release: Annotated[
        Literal["commit", "read"],
        Field(description="What gives its space back: a checkpoint of its copy, or that it was read once."),
    ] = "commit"
    agent: Annotated[
        bool,
        Field(description="A program holds it: it renews it every 20 s, and sends its list of blocks within 120 s."),
    ] = False
    increments: Annotated[bool, Field(description="Count what changes from this instant on, for increments on it.")] = (
        False
    )
    prepare: Annotated[
        bool, Field(description="Only claim its space; `snapshot take` within 10 s makes the instant.")
    ] = False


class OneSnapshot(Parameters):
    snapshot: Name


class ChangesSince(Parameters):
    snapshot: Name
    disk: Annotated[str, Field(description="One of its disks.")]
    since: Annotated[str, Field(description="The mark of an earlier snapshot of that disk.")]
    offset: Annotated[int, Field(ge=0, description="From there on, in bytes.")] = 0


class ChangedRanges(Result):
    """(offset, length) in bytes. next_offset: where to go on; none: that is all."""

    extents: list[tuple[int, int]]
    next_offset: int | None


class SendSignal(Parameters):
    """Which of the optional ones a signal takes: list-part and checkpoint extents; list-end count and digest;
    checkpoint its number; failed segment, sense and reason."""

    snapshot: Name
    sender: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@-]{1,64}$", description="Who numbers it: agent, mover, ...")]
    number: Annotated[int, Field(ge=1, description="Of the sender's own, from 1, without a gap.")]
    signal: Annotated[Signal, Field(description="What was done.")]
    extents: ByteRanges = {}
    count: Annotated[int, Field(ge=0, description="How many extents the list has.")] = 0
    digest: Annotated[str, Field(description="SHA-256 of the snapshot's name and the list.")] = ""
    checkpoint: Annotated[int, Field(ge=0, description="Its number.")] = 0
    segment: Annotated[int | None, Field(ge=0, description="The one that failed.")] = None
    sense: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{0,512}$", description="Sense data in hexadecimal.")] = ""
    reason: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{0,500}$", description="Why it failed.")] = ""


def _still(context: OnLibrary, parameters: OneSnapshot) -> AbstractContextManager[Any]:
    """Nobody else makes a step of a snapshot without it, nor does a deadline."""
    with _told():
        return context.library.snapshots.get(parameters.snapshot).changing


@verb("snapshot.create", Scope.OPERATE)
def create(context: OnLibrary, parameters: CreateSnapshot) -> SnapshotDetails:
    """Hold one disk or several as they are at this instant, while they go on being written."""
    from appliance.library.snapshots.states import Terms
    from appliance.settings.units import parse_size

    snapshots = context.library.snapshots
    terms = Terms(most_seconds=parameters.hold_seconds)
    if not parameters.agent:
        terms = Terms(lease_seconds=None, list_seconds=None, most_seconds=parameters.hold_seconds)
    with _told():
        kept = (snapshots.prepare if parameters.prepare else snapshots.create)(
            [name.strip() for name in parameters.disks.split(",")],
            budget_bytes=None if parameters.budget is None else parse_size(parameters.budget),
            terms=terms,
            release=parameters.release,
            increments=parameters.increments,
        )
    return _shown(kept)


@verb("snapshot.take", Scope.OPERATE, changes="snapshot.show", still=_still)
def take(context: OnLibrary, parameters: OneSnapshot) -> SnapshotDetails:
    """Make the instant of a snapshot whose space is claimed."""
    with _told():
        kept = context.library.snapshots.get(parameters.snapshot)
        context.library.snapshots.take(kept)
    return _shown(kept)


@verb("snapshot.list", Scope.READ, key=("snapshot",))
def list_(context: OnLibrary, parameters: Nothing) -> list[SnapshotDetails]:
    """List the snapshots: what they take, how old they are; those that are over too, for a while."""
    return [_shown(kept) for kept in context.library.snapshots.all()]


@verb("snapshot.show", Scope.READ)
def show(context: OnLibrary, parameters: OneSnapshot) -> SnapshotDetails:
    """Show one snapshot, with each of its disks."""
    with _told():
        return _shown(context.library.snapshots.get(parameters.snapshot))


@verb("snapshot.changes", Scope.READ)
def changes(context: OnLibrary, parameters: ChangesSince) -> ChangedRanges:
    """List what changed on a disk between an earlier snapshot and this one, by 10,000 extents at a time."""
    from appliance.library.snapshots.block_list import MOST_EXTENTS
    from vlib_images.disk.changes import Mark, NoIncrement

    with _told():
        kept = context.library.snapshots.get(parameters.snapshot)
    try:
        found = kept.changed_since(parameters.disk, Mark.parse(parameters.since))
        later = (extent for extent in found if extent[0] >= parameters.offset)
        extents = list(islice(later, MOST_EXTENTS + 1))
    except ValueError:
        raise OperatorError(Failure.USAGE, f"{parameters.since} is no mark; `snapshot show` says it") from None
    except NoIncrement as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None
    more = extents[MOST_EXTENTS][0] if len(extents) > MOST_EXTENTS else None
    return ChangedRanges(extents=extents[:MOST_EXTENTS], next_offset=more)


@verb("snapshot.renew", Scope.OPERATE, changes="snapshot.show", still=_still)
def renew(context: OnLibrary, parameters: OneSnapshot) -> SnapshotDetails:
    """Say that a snapshot is still used, for a program that holds it."""
    with _told():
        kept = context.library.snapshots.get(parameters.snapshot)
        kept.renew()
    return _shown(kept)


@verb("snapshot.release", Scope.OPERATE, changes="snapshot.show", still=_still)
def release(context: OnLibrary, parameters: OneSnapshot) -> SnapshotDetails:
    """End a snapshot, which gives all of its space back. Whoever reads it gets an error from then on."""
    with _told():
        kept = context.library.snapshots.get(parameters.snapshot)
    context.library.snapshots.release(kept, f"released by {context.caller.name}")
    return _shown(kept)


@verb("snapshot.signal", Scope.OPERATE, changes="snapshot.show", still=_still)
def signal(context: OnLibrary, parameters: SendSignal) -> SnapshotDetails:
    """For programs that hold a snapshot or copy it: what they have done.

    Sent again, it has no second effect; whoever got no answer may send it again, or ask with `snapshot show` which
    number came last."""
    with _told():
        kept = context.library.snapshots.get(parameters.snapshot)
        kept.signal(parameters.sender, parameters.number, lambda: _EFFECTS[parameters.signal](kept, parameters))
        if parameters.signal == "released":
            context.library.snapshots.release(kept)
    return _shown(kept)


def _list_part(kept: KeptSet, given: SendSignal) -> None:
    for disk, extents in given.extents.items():
        kept.add_to_list(disk, extents)


def _checkpoint(kept: KeptSet, given: SendSignal) -> None:
    for disk, extents in given.extents.items():
        kept.commit(disk, extents)
    kept.renew()
    kept.checkpoint = max(kept.checkpoint, given.checkpoint)


def _failed(kept: KeptSet, given: SendSignal) -> None:
    where = "" if given.segment is None else f"segment {given.segment}: "
    kept.fail(where + (given.reason or "its copy failed") + (f"; sense data {given.sense}" if given.sense else ""))


_EFFECTS: Mapping[str, Callable[[KeptSet, SendSignal], object]] = {
    "list-begin": lambda kept, _given: kept.begin_list(),
    "list-part": _list_part,
    "list-end": lambda kept, given: kept.end_list(given.count, given.digest),
    "accepted": lambda kept, _given: kept.renew(),
    "started": lambda kept, _given: kept.start(),
    "checkpoint": _checkpoint,
    "failed": _failed,
    "done": lambda kept, _given: kept.finish(),
    "released": lambda kept, _given: kept.release("released by its holder"),
}


@contextmanager
def _told() -> Iterator[None]:
    """What a snapshot refuses, in an operator's terms."""
    from appliance.library.snapshots.block_list import BadList
    from appliance.library.snapshots.keeper import NoSuchSnapshot
    from appliance.library.snapshots.signals import OutOfTurn
    from appliance.library.snapshots.states import SnapshotStateError

    try:
        yield
    except NoSuchSnapshot as error:
        raise OperatorError(Failure.NOT_FOUND, str(error)) from None
    except (SnapshotStateError, OutOfTurn) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from None
    except BadList as error:
        raise OperatorError(Failure.USAGE, str(error)) from None


def _shown(kept: KeptSet) -> SnapshotDetails:
    state = kept.state
    return SnapshotDetails(
        snapshot=kept.name,
        state=state.value,
        reason=kept.reason,
        disks=[
            DiskOfSnapshot(
                disk=figures.disk,
                size_bytes=figures.size_bytes,
                live_bytes=figures.live_bytes,
                saved_bytes=figures.saved_bytes,
                retired_bytes=figures.retired_bytes,
                device=kept.device_name(figures.disk),
                mark=str(kept.frozen[figures.disk].mark) if figures.disk in kept.frozen else None,
            )
            for figures in kept.figures()
        ],
        stored_bytes=kept.stored_bytes,
        budget_bytes=kept.budget_bytes,
        age_seconds=kept.age_seconds,
        seconds_left=kept.seconds_left(),
        release=kept.release_by,
        checkpoint=kept.checkpoint,
        signals=dict(kept.signals.last),
    )
