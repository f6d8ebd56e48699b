"""One backup from its beginning to its end, or from its last checkpoint on.

The disks are held still by a snapshot, their files are counted, and then every file becomes a member of the archive on
tape. What is durable there is in the catalogue, in one transaction with the checkpoint that made it so, and given back
to the snapshot. So whatever ends a backup, the tape, the catalogue and the snapshot's store agree up to a checkpoint.

From there it goes on by itself: on another drive where one fails, on the next cartridge where one takes nothing more.
Whoever resumes it later makes a new snapshot and first proves that it holds what was written; but for disks whose
snapshot an agent holds, and still does: that one is the same.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from appliance.backup import index
from appliance.backup.archive import (
    COMMAND_BYTES,
    TAPE_BLOCK,
    Archive,
    Checkpoint,
    Listener,
    Member,
    VolumeFull,
    VolumeTooSmall,
)
from appliance.backup.cartridges import BackupCartridges
from appliance.backup.catalogue import Catalogue, CatalogueDamaged, StreamPlace, Volume, part_begun
from appliance.backup.content import ChangedSince, check_same, checksum
from appliance.backup.faults import is_of_the_drive, is_of_the_medium, is_overflow, words_of
from appliance.backup.gathering import Together
from appliance.backup.holdings import Holdings
from appliance.backup.house import BackupLibrary, Instant
from appliance.backup.increment import Base, Increment, ToWrite
from appliance.backup.lists import FileList
from appliance.backup.pending import PendingMembers
from appliance.backup.progress import RENEW_SECONDS, BackupProgress
from appliance.backup.records import Backup
from appliance.backup.sources import Sources, SourceTotals, StillDisk
from appliance.backup.spool import Spool
from appliance.backup.volume import MountedDrive
from appliance.failures import Failure, OperatorError
from scsi_targets.client.tape_stream import StreamFailed
from scsi_targets.client.unit import CommandFailed
from vlib_images.disk.changes import NoIncrement

log = structlog.get_logger(__name__)

_TICK_ROWS: Final = 1000
_Found = TypeVar("_Found")
_DIGEST: Final = "digest"  # the fact that all was counted: how much of it there is, and what


class _VolumeCut(Exception):
    """A cartridge takes nothing more, not even the end of its archive."""


class BackupCancelled(Exception):
    """The operator, or the end of the daemon, has stopped it."""


@dataclass(slots=True)
class BackupJob:
    """run() it once. take_drive: which drive it may use, as long as it runs, for a cartridge, and other than some.
    holdings: which backups cartridges hold.
    note: for what was counted. base: the catalogue of the backup that this one follows as an increment; full: for why
    it is a full one all the same."""

    backup: Backup
    catalogue: Catalogue
    house: BackupLibrary
    take_drive: Callable[[Backup, str, Container[str]], str]
    holdings: Holdings
    note: Callable[[SourceTotals], None]
    base: Path | None = None
    full: Callable[[str], None] = lambda _reason: None
    progress: BackupProgress = field(default_factory=BackupProgress)
    cancelled: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)  # the daemon is
    _instant: Instant | None = None
    _own: Instant | None = None  # the instant, or what of it no agent holds
    _renewed: float = 0.0
    _copying: bool = False
    _pending: PendingMembers = field(default_factory=PendingMembers)
    _cartridges: BackupCartridges = field(init=False)
    _volume: Volume = field(default_factory=lambda: Volume(1, ""))
    _archive: Archive | None = None

    def __post_init__(self) -> None:
        self._cartridges = BackupCartridges(self.backup, self.catalogue, self.holdings)

    def run(self) -> None:
        """Raises Cancelled, OperatorError, NotReadable, ChangedSince, StreamFailed, VolumeTooSmall, OSError, ..."""
        self._instant = instant = self._instant_of()
        done = False
        try:
            self._run(instant)
            done = True
        except Exception as error:
            if why := instant.over_because:  # which is why, whatever came of it
                raise OperatorError(Failure.REFUSED, why) from error
            raise
        finally:
            self._let_go(instant, done=done)

    @property
    def _held_by_agents(self) -> set[int]:
        """The numbers of the disks whose instant agents hold: as long as they do it is the same one."""
        held = self.backup.disks if self.backup.snapshot is not None else self.backup.listed_disks
        return {number for number, disk in enumerate(self.backup.disks) if disk in held}

    def _let_go(self, instant: Instant, *, done: bool) -> None:
        """What an agent holds stays, until it is resumed or the agent lets go of it: it cannot be made again."""
        if done or self.stopping.is_set():
            instant.release()
            return
        if self._copying and self._held_by_agents:
            self._copy_failed(instant, "its backup has not come to its end")
        if self._own is not None:
            self._own.release()

    def _copy_failed(self, instant: Instant, reason: str) -> None:
        self._copying = False
        try:
            instant.fail(reason)
        except Exception:
            if not instant.over_because:
                raise

    def _run(self, instant: Instant) -> None:
        disks = [StillDisk(name, instant.images[name], instant.units[name].block_length) for name in self.backup.disks]
        with closing(Spool(self.catalogue.path.parent)) as files:
            with closing(self._to_write(disks, instant)) as sources:
                self._count(sources, files, instant)
            self._compare(files, disks, self.catalogue.place())
            if self.backup.snapshot is not None and not instant.is_narrowed:
                instant.narrow({disk.name: self._ticking(files.extents(number)) for number, disk in enumerate(disks)})
            self._copy(files, instant)
            instant.finish()

    def _copy(self, files: Spool, instant: Instant) -> None:
        """On one drive after another, until all is on tape. Raises what the last one raised, when there is none that
        has not failed since the last checkpoint."""
        failed: dict[str, Exception] = {}
        while True:
            place = self.catalogue.place()
            try:
                name = self.take_drive(self.backup, self._cartridges.first(place, self.progress.total_files), failed)
            except OperatorError:
                if not failed:
                    raise
                raise list(failed.values())[-1] from None
            instant.start()
            self._copying = True
            try:
                self._copy_on(name, files, instant, place)
                return
            except Exception as error:
                if not is_of_the_drive(error) or instant.over_because:
                    raise
                why = words_of(error) if isinstance(error, StreamFailed | CommandFailed) else str(error)
                log.warning("a drive fails a backup", backup=self.backup.number, drive=name, reason=why)
                self._copy_failed(instant, f"{name}: {why}")
                if self.catalogue.place() != place:
                    failed.clear()
                failed[name] = error
                self._go_back()

    def _copy_on(self, name: str, files: Spool, instant: Instant, place: StreamPlace) -> None:
        self.progress.drive = name
        units = [instant.units[disk] for disk in self.backup.disks]
        initiator = f"iqn.2026-01.io.tapebay:backup-{self.backup.number}"
        with MountedDrive(self.house, name, units, initiator, self._is_stopped) as drive:
            self._write(files, drive, place)

    def _go_back(self) -> None:
        """To the last checkpoint: what came after it is written again."""
        self._pending.forget()
        self.progress.files, self.progress.content_bytes = self.catalogue.totals()

    def _instant_of(self) -> Instant:
        snapshot = self.backup.snapshot
        if snapshot is not None:
            return self.house.held(snapshot)
        if self.backup.servers:
            return Together(self._instants())
        return self._still(self.backup.disks)

    def _still(self, disks: Sequence[str]) -> Instant:
        self._own = self.house.still(disks)
        return self._own

    def _instants(self) -> Iterator[Instant]:
        """Those that agents hold, and one of the disks that no server uses."""
        yield from (self.house.held(part.snapshot) for part in self.backup.servers if part.snapshot is not None)
        if others := [disk for disk in self.backup.disks if disk not in self.backup.listed_disks]:
            yield self._still(others)

    def _sources(self, disks: Sequence[StillDisk]) -> Sources:
        return Sources.listed(disks, self._lists(), raw=self.backup.raw, alive=self._tick)

    def _lists(self) -> dict[str, tuple[str, FileList]]:
        """What agents have listed, by disk, and what goes before its names. Raises ListRefused."""
        backup, lists = self.backup, self.house.file_lists
        if backup.snapshot is not None:
            return {} if backup.raw else {disk: ("", lists.get(backup.snapshot, disk)) for disk in backup.disks}
        return {
            disk: (part.server, lists.get(part.snapshot, disk))
            for part in backup.servers
            for disk in part.disks
            if part.snapshot is not None
        }

    def _to_write(self, disks: Sequence[StillDisk], instant: Instant) -> ToWrite:
        """What is on the disks; or of that, what has changed. Raises OperatorError, NotReadable, OSError."""
        if self.base is None:
            return self._sources(disks)
        try:
            base = Base(self.base, instant, disks)
        except (NoIncrement, CatalogueDamaged, OSError) as reason:
            if _DIGEST in self.catalogue.facts():
                message = f"it cannot go on as an increment: {reason}. Begin a new one"
                raise OperatorError(Failure.REFUSED, message) from reason
            self.full(str(reason))
            return self._sources(disks)
        with ExitStack() as opened:
            opened.callback(base.close)
            sources = opened.enter_context(closing(self._sources(disks)))
            made = Increment(sources, base, self.catalogue.path.with_suffix(".increment"))
            opened.pop_all()  # and it closes them
            return made

    # ---- being alive -----------------------------------------------------------------------------------------------

    def _is_stopped(self) -> bool:
        """Asked again and again while commands run: the snapshot's lease is renewed on the way."""
        now = time.monotonic()
        if self._instant is not None and now - self._renewed >= RENEW_SECONDS:
            self._renewed = now
            if self.progress.phase == "counting":
                self._instant.list_comes()
            else:
                self._instant.renew()
        return self.cancelled.is_set()

    def _tick(self) -> None:
        if self._is_stopped():
            raise BackupCancelled

    def _ticking(self, found: Iterable[_Found]) -> Iterator[_Found]:
        """The same, for whoever takes all of it at once: there may be millions."""
        for count, one in enumerate(found):
            if count % _TICK_ROWS == 0:
                self._tick()
            yield one

    # ---- what there is ---------------------------------------------------------------------------------------------

    def _count(self, sources: ToWrite, files: Spool, instant: Instant) -> None:
        self.progress.phase = "counting"
        totals = sources.totals(files.add, self._tick)
        files.end()
        known = self.catalogue.facts().get(_DIGEST)
        if known not in (None, totals.digest):
            raise ChangedSince(
                "the disks have changed since the backup began: files came, went, or are elsewhere. Begin a new one"
            )
        parts = [{"prefix": part.prefix.decode(), "kind": part.kind} for part in sources.parts]
        marks = {disk: str(mark) for disk, mark in instant.marks.items()}
        self.catalogue.put_facts(**{_DIGEST: totals.digest}, parts=parts, marks=marks)
        if isinstance(sources, Increment):
            self.catalogue.put_unchanged(self._ticking(sources.unchanged()))
            self.catalogue.put_facts(chain=sources.chain(), images=sources.images())
        self.catalogue.put_skipped(totals.skipped)
        self.note(totals)
        self.progress.total_files, self.progress.total_bytes = totals.files, totals.content_bytes

    def _compare(self, files: Spool, disks: Sequence[StillDisk], place: StreamPlace) -> None:
        """What is on tape already is what the disks hold. Raises ChangedSince."""
        on_tape, content = self.catalogue.totals()
        held = self._held_by_agents
        if len(held) < len(disks) and (on_tape or place.checkpoint.checked_bytes):
            self.progress.phase = "comparing"
            members = files.members(tick=self._tick)
            check_same(members, disks, self.catalogue.files(), place.checkpoint, held, self._tick)
        self.progress.files, self.progress.content_bytes = on_tape, content

    # ---- writing ---------------------------------------------------------------------------------------------------

    def _write(self, files: Spool, drive: MountedDrive, place: StreamPlace) -> None:
        self.progress.copies()
        volumes = self.catalogue.volumes()
        if volumes and volumes[-1].closed:
            self._index(drive, volumes[-1])
        while place.checkpoint.first_number < self.progress.total_files or not volumes:
            try:
                self._write_files(files, drive, place)
                return
            except _VolumeCut as error:
                log.warning("a cartridge takes nothing more", cartridge=self._volume.barcode, reason=str(error))
                place = self._cut(files)

    def _write_files(self, files: Spool, drive: MountedDrive, place: StreamPlace) -> None:
        members = files.members(place.checkpoint.first_number, self._tick)
        waiting: deque[Member] = deque()
        while True:
            archive = self._begin(drive, place)
            try:
                while (member := waiting.popleft() if waiting else next(members, None)) is not None:
                    archive.add(member)
                    if self._pending.are_many:
                        archive.checkpoint_soon()
                archive.finish()
            except VolumeFull as full:
                waiting.extendleft(reversed(self._closed_early(archive, full)))
            if not waiting and (following := next(members, None)) is not None:
                waiting.append(following)
            place = self._next_place(place, waiting[0] if waiting else None)
            self._close(drive, place, waiting[0] if waiting else None)
            if not waiting:
                return

    def _closed_early(self, archive: Archive, full: VolumeFull) -> list[Member]:
        """The members that are not on this volume. Raises _VolumeCut where there is another cartridge to go on with."""
        reason: BaseException | None = full.__cause__
        try:
            return archive.close_early()
        except (StreamFailed, CommandFailed, VolumeTooSmall) as error:
            if not isinstance(error, VolumeTooSmall):
                reason = error
            if reason is None or not is_of_the_medium(reason) or self._cartridges.unused() is None:
                raise
            raise _VolumeCut(str(error)) from error

    def _cut(self, files: Spool) -> StreamPlace:
        """The volume ends at its last checkpoint, and the next begins with the first file that is not whole there."""
        place = self.catalogue.place()
        checkpoint, first = place.checkpoint, self.catalogue.totals()[0]
        volume = replace(self._volume, archive_bytes=checkpoint.bytes_on_tape, closed=True, cut=True)
        if checkpoint.first_before and first == checkpoint.first_number:
            following = self._begun_before(files, checkpoint)
        else:
            following = Checkpoint(first_number=first)
        self._go_back()
        self.catalogue.close_volume(volume, StreamPlace(place.volume + 1, following), [])
        self._give_back(None)
        return self.catalogue.place()

    def _begun_before(self, files: Spool, checkpoint: Checkpoint) -> Checkpoint:
        """The beginning of a volume with a file that an earlier one began, as it was before anything was written."""
        member = next(files.members(checkpoint.first_number))
        on_earlier = checkpoint.first_before - (member.content_bytes - member.stored_bytes)
        assert self._instant is not None  # run() made it
        image = self._instant.images[self.backup.disks[member.disk]]
        found = checksum(image, member.entry, bytearray(1 << 20), on_earlier, self._tick)
        return replace(checkpoint, bytes_on_tape=0, crc32c=found, checked_bytes=on_earlier)

    def _begin(self, drive: MountedDrive, place: StreamPlace) -> Archive:
        """The archive of a volume, from its beginning or its checkpoint on."""
        comment = f"tapebay backup {self.backup.identifier} volume {place.volume}"
        on_tape = place.checkpoint.bytes_on_tape
        self.progress.cartridge = barcode = self._cartridges.mount(drive, place, comment)
        drive.tape.locate(on_tape // TAPE_BLOCK)
        self._volume = Volume(place.volume, barcode)
        self.catalogue.put_volume(self._volume)
        written = [on_tape]

        def count(so_far: int) -> None:
            self.progress.copied_bytes += so_far - written[0]
            written[0] = so_far

        listener = Listener(self._on_whole, self._on_durable, count)
        checkpoint_bytes = self.backup.checkpoint_bytes
        self._archive = Archive(
            drive.writer(), listener, comment, checkpoint_bytes, place.checkpoint,
            command_bytes=min(COMMAND_BYTES, checkpoint_bytes),
        )  # fmt: skip
        self._archive.begin()
        return self._archive

    # ---- what became of it -----------------------------------------------------------------------------------------

    def _on_whole(self, member: Member) -> None:
        self._pending.add(self._volume.number, member)
        self.progress.files += 1
        self.progress.content_bytes += member.stored_bytes

    def _on_durable(self, checkpoint: Checkpoint) -> None:
        self.catalogue.commit(StreamPlace(self._volume.number, checkpoint), self._pending.members)
        assert self._archive is not None  # it says so
        self._give_back(self._archive.first_needed)

    def _give_back(self, needed: int | None) -> None:
        """What is durable on tape the snapshot need not keep; but what shares a block on tape with the member `needed`
        has to be written again where the tape is full in that one."""
        assert self._instant is not None  # run() made it
        for number, extents in self._pending.safe(needed).items():
            self._instant.commit(self.backup.disks[number], extents)
        self._instant.checkpoint += 1
        self._tick()

    def _next_place(self, place: StreamPlace, first: Member | None) -> StreamPlace:
        """Where the next volume begins; None: there is nothing left."""
        if first is None:
            return StreamPlace(place.volume + 1, Checkpoint(first_number=self.progress.total_files))
        known = (first.crc32c, first.checked_bytes) if first.before else (0, 0)
        return StreamPlace(place.volume + 1, Checkpoint(first.number, first.before, first.part, 0, *known))

    def _close(self, drive: MountedDrive, following: StreamPlace, first: Member | None) -> None:
        """The archive of the volume is complete, with a filemark after it: the catalogue knows, and an index follows.
        first: of the next volume; it may have begun on this one."""
        on_tape = (drive.tape.position().logical_object_number - 1) * TAPE_BLOCK
        volume = replace(self._volume, archive_bytes=on_tape, closed=True)
        begun = [part_begun(volume.number, first, on_tape)] if first is not None and first.before else []
        self.catalogue.close_volume(volume, following, self._pending.members, *begun)
        self._give_back(None)
        self._index(drive, volume)

    def _index(self, drive: MountedDrive, volume: Volume) -> None:
        """After the filemark of the archive. A tape that takes no index goes without: the next volume's has all."""
        if volume.indexed or volume.cut:
            return
        drive.mount(volume.barcode)
        after = volume.archive_bytes // TAPE_BLOCK + 1
        drive.tape.locate(after)
        try:
            drive.write_file(index.pieces(self.catalogue, self._tick))
        except StreamFailed as error:
            if not (is_overflow(error) or is_of_the_medium(error)):
                raise
            log.warning("a volume takes no index; the next one's has it too", cartridge=volume.barcode)
            self._end_without_index(drive, after)
        else:
            self.catalogue.put_volume(replace(volume, indexed=True))

    @staticmethod
    def _end_without_index(drive: MountedDrive, after: int) -> None:
        """The tape ends with two filemarks after the archive, if it takes that much."""
        try:
            drive.tape.locate(after)
            drive.tape.write_filemarks()
        except CommandFailed as error:
            if not (is_overflow(error) or is_of_the_medium(error)):
                raise
