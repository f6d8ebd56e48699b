"""Copies: what EXTENDED COPY moves and has moved, whoever sent it, and the checksum of each segment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from appliance.operations.verb import Nothing, OnLibrary, Parameters, Positional, Result, Scope, Volatile, verb
from appliance.settings.units import parse_size

if TYPE_CHECKING:
    from scsi_targets.devices.copying.records import CopyRecord

CopyState = Literal["waiting", "copying", "done", "failed"]


class CopyDetails(Result):
    """One EXTENDED COPY command."""

    number: int = Field(description="In the order of their arrival since the daemon's start.")
    device: str = Field(description="The disk or drive that manages it.")
    initiator: str
    list_identifier: int | None = Field(description="What the initiator calls it; null when it gave it no name.")
    state: CopyState = Field(description='"waiting" is for its turn with a drive, or for buffers.')
    began: float = Field(description="Seconds since 1970.")
    ended: float | None
    segments: Annotated[int, Volatile()] = Field(description="How many were begun.")
    bytes_written: Annotated[int, Volatile()]
    bytes_per_second: int = Field(description="What it may move at most; 0: any number.")
    crc32c: Annotated[str, Volatile()] = Field(
        description="Of all that the segments took so far, in order; hexadecimal."
    )
    failed_segment: int | None = Field(description="Counted from 0.")
    reason: str = Field(description="Why it failed, or empty.")
    sense: str = Field(description="The sense data that it ended with; hexadecimal.")


class SegmentResult(Result):
    """What one segment took from its source, and from what earlier segments left over."""

    segment: int
    bytes_taken: int
    crc32c: str


class CopyResult(CopyDetails):
    """results: of each segment, when it has ended."""

    results: Annotated[list[SegmentResult], Volatile()]


class OneCopy(Parameters):
    number: Annotated[int, Positional("NUMBER"), Field(ge=1, description="As `tapebay copies list` shows it.")]


def _rate(given: object) -> str:
    """Raises ValueError."""
    parse_size(given if isinstance(given, int) else str(given))
    return str(given)


Rate = Annotated[str, BeforeValidator(_rate, json_schema_input_type=str | int)]


class LimitCopy(OneCopy):
    rate: Annotated[Rate, Positional("RATE"), Field(description='Bytes a second, for example "50 MiB"; 0: no limit.')]


@verb("copies.list", Scope.READ, key=("number",))
def list_(context: OnLibrary, parameters: Nothing) -> list[CopyDetails]:
    """List the copies that run and the last 64 that have ended of each disk and drive, oldest first."""
    return sorted((_shown(device, record) for device, record in _records(context)), key=lambda copy: copy.number)


@verb("copies.show", Scope.READ)
def show(context: OnLibrary, parameters: OneCopy) -> CopyResult:
    """One copy, with the length and CRC32C of each of its segments when it has ended."""
    device, record = _found(context, parameters.number)
    results = [
        SegmentResult(segment=segment, bytes_taken=taken, crc32c=f"{crc32c:08x}")
        for segment, (taken, crc32c) in enumerate(record.checksums)
    ]
    return CopyResult(**_shown(device, record).model_dump(), results=results)


@verb("copies.limit", Scope.OPERATE, changes="copies.show")
def limit(context: OnLibrary, parameters: LimitCopy) -> CopyDetails:
    """Say how fast a copy may go, also while it runs."""
    device, record = _found(context, parameters.number)
    with context.files.changing:
        record.pace.bytes_per_second = parse_size(parameters.rate)
    context.log.info("a copy's rate was changed", copy=record.number, bytes_per_second=record.pace.bytes_per_second)
    return _shown(device, record)


@verb("copies.stop", Scope.OPERATE, changes="copies.show")
def stop(context: OnLibrary, parameters: OneCopy) -> CopyDetails:
    """Stop a copy, between two blocks; its initiator is told that it was aborted."""
    device, record = _found(context, parameters.number)
    record.cancel()
    context.log.warning("a copy was stopped by the operator", copy=record.number, initiator=record.initiator)
    return _shown(device, record)


def _found(context: OnLibrary, number: int) -> tuple[str, CopyRecord]:
    from appliance.failures import Failure, OperatorError

    for device, record in _records(context):
        if record.number == number:
            return device, record
    message = f"copy {number} is not known, or no longer; tapebay copies list shows those that are"
    raise OperatorError(Failure.NOT_FOUND, message)


def _records(context: OnLibrary) -> Iterator[tuple[str, CopyRecord]]:
    from scsi_targets.devices.disk.block_device import BlockDevice
    from scsi_targets.devices.tape.tape_drive import TapeDrive

    for name, unit in list(context.library.units.items()):
        if isinstance(unit, BlockDevice | TapeDrive):
            yield from ((name, record) for record in unit.copy_manager.recent())


def _shown(device: str, record: CopyRecord) -> CopyDetails:
    return CopyDetails(
        number=record.number,
        device=device,
        initiator=record.initiator,
        list_identifier=record.list_identifier,
        state=_state(record),
        began=record.began,
        ended=record.ended,
        segments=record.progress.segments,
        bytes_written=record.progress.bytes_written,
        bytes_per_second=record.pace.bytes_per_second,
        crc32c=f"{record.progress.crc32c:08x}",
        failed_segment=record.failed_segment,
        reason=record.reason,
        sense=record.sense_data.hex(),
    )


def _state(record: CopyRecord) -> CopyState:
    if record.status is None:
        return "copying" if record.has_turn else "waiting"
    return "failed" if record.status else "done"
