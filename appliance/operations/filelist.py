"""Lists of files of a snapshot's disks, as agents send them for a hot backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnLibrary, Parameters, Result, Scope, verb

SnapshotName = Annotated[str, Field(description="As `tapebay snapshot list` calls it.")]
SnapshotDiskName = Annotated[str, Field(description="One of the snapshot's disks.")]


class AddToFileList(Parameters):
    snapshot: SnapshotName
    disk: SnapshotDiskName
    part: Annotated[int, Field(ge=1, description="From 1, without a gap.")]
    lines: Annotated[list[str], Field(max_length=10_000, description="A file each, as JSON.")]


class EndFileList(Parameters):
    snapshot: SnapshotName
    disk: SnapshotDiskName
    count: Annotated[int, Field(ge=0, description="How many lines the list has.")]
    digest: Annotated[str, Field(description="HMAC-SHA256 over the snapshot, the disk and all lines.")]


class FileListDetails(Result):
    """What has come of a list of files."""

    parts: int
    files: int
    whole: bool


@verb("filelist.add", Scope.OPERATE)
def add(context: OnLibrary, parameters: AddToFileList) -> FileListDetails:
    """For agents: a part of the list of files of a snapshot's disk. Sent again, it has no second effect."""
    with _refusals():
        kept = context.library.held(parameters.snapshot)
        if why := kept.over_because:
            raise OperatorError(Failure.REFUSED, f"{parameters.snapshot}: {why}")
        size = kept.sizes.get(parameters.disk)
        if size is None:
            raise OperatorError(Failure.NOT_FOUND, f"snapshot {parameters.snapshot} has no disk {parameters.disk}")
        kept.list_comes()
        found = context.library.file_lists.add(
            parameters.snapshot, parameters.disk, size, parameters.part, parameters.lines, context.caller.key
        )
        return FileListDetails(parts=found.parts, files=found.count, whole=found.whole)


@verb("filelist.end", Scope.OPERATE)
def end(context: OnLibrary, parameters: EndFileList) -> FileListDetails:
    """For agents: the list of files of a snapshot's disk is whole. It is refused where it was torn or changed."""
    with _refusals():
        found = context.library.file_lists.get(parameters.snapshot, parameters.disk)
        found.end(parameters.count, parameters.digest)
        return FileListDetails(parts=found.parts, files=found.count, whole=found.whole)


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with a list, in an operator's terms."""
    from appliance.backup.listing import ListRefused
    from appliance.library.snapshots.states import SnapshotStateError

    try:
        yield
    except SnapshotStateError as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error
    except ListRefused as error:
        raise OperatorError(Failure.USAGE, str(error)) from error
