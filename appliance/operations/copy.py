"""copy: from one end to another, whatever they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from appliance.copying.ends import End, EndKind, parse_end
from appliance.operations.copies import Rate
from appliance.operations.verb import OnLibrary, Parameters, Positional, Result, Scope, verb
from appliance.settings.remote_address import parse_remote_address
from appliance.settings.units import parse_size

MOST_BLOCK_BYTES = 0xFFFFFF


def _checked(text: str) -> str:
    """With a path made absolute, where it was written: the daemon has another working directory. Raises ValueError."""
    end = parse_end(text)
    if end.kind is EndKind.DISK:
        end.extents()
    elif end.kind in (EndKind.DRIVE, EndKind.CARTRIDGE):
        end.position()
    elif end.kind is EndKind.ISCSI:
        parse_remote_address(end.name)
    return f"file:{end.name}" if end.kind is EndKind.FILE else text


CopyEnd = Annotated[str, AfterValidator(_checked)]


class CopyBetween(Parameters):
    source: Annotated[
        CopyEnd,
        Positional("SRC"),
        Field(description="disk:NAME, drive:NAME, cartridge:BARCODE, remote:NAME, iscsi://HOST/IQN/LUN, ./FILE."),
    ]
    destination: Annotated[
        CopyEnd,
        Positional("DST"),
        Field(description="As SRC. Of both: @LBA+COUNT,... are blocks; @start, @end, @file=N, @block=N a place."),
    ]
    block_length: Annotated[
        int, Field(ge=1, le=MOST_BLOCK_BYTES, description="Bytes of a tape block that is written from a disk or file.")
    ] = 256 << 10
    rate: Annotated[Rate | None, Field(description='Bytes a second at most, for example "50 MiB".')] = None
    filemarks: Annotated[int, Field(ge=0, le=0xFFFF, description="How many are written after the data on a tape.")] = 1


class CopyReport(Result):
    """What was copied; the destination has it on stable storage if it is a tape."""

    source: str
    destination: str
    bytes_copied: int
    commands: int = Field(description="EXTENDED COPY commands that carried data.")
    segments: int
    crc32c: str = Field(description="Of all that was copied, in order; hexadecimal.")
    seconds: float


@verb("copy", Scope.ADMINISTER, reports_progress=True)
def copy(context: OnLibrary, parameters: CopyBetween) -> CopyReport:
    """Copy between disks, tapes and files, of this library and those that were added from elsewhere."""
    import time

    from appliance.copying.copier import copy_ends

    source, destination = _end(parameters.source), _end(parameters.destination)
    began = time.monotonic()
    copied = copy_ends(
        context.library,
        source,
        destination,
        block_length=parameters.block_length,
        filemarks=parameters.filemarks,
        bytes_per_second=_bytes_per_second(context, parameters.rate),
        progress=context.progress,
    )
    return CopyReport(
        source=str(source),
        destination=str(destination),
        bytes_copied=copied.bytes_copied,
        commands=copied.commands,
        segments=copied.segments,
        crc32c=f"{copied.crc32c:08x}",
        seconds=round(time.monotonic() - began, 3),
    )


def _bytes_per_second(context: OnLibrary, rate: str | None) -> int:
    """As it was asked for, else as for every copy."""
    return context.settings.limits.copy_rate or 0 if rate is None else parse_size(rate)


def _end(text: str) -> End:
    return parse_end(text)
