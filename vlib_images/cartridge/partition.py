"""One partition of a cartridge: a run of logical objects (blocks and filemarks) that grows at its end.

What is written goes to the tail segment until that is full and sealed. Only synchronize() promises anything: until then
the manifest may not know the newest segments, and recovery finds them by their chained headers.
"""

import copy
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from typing_extensions import Buffer

from datamover.engine import PROTECTION_BYTES, READ_DAMAGED, READ_END, ProtectionMismatch, Segment, SegmentDamaged
from datamover.file_run import CHECKSUM_BYTES, FileRun
from vlib_images.cartridge.codec import Form, Scratch, StoredBlock
from vlib_images.cartridge.encrypted_blocks import KIND_BLOCK, note_encrypted
from vlib_images.cartridge.manifest import EntryFlag, Manifest, ManifestEntry
from vlib_images.cartridge.segment_list import SegmentList
from vlib_images.cartridge.segments import SegmentStore, finish_cut
from vlib_images.errors import (
    CartridgeError,
    DamagedBlock,
    EndOfPartition,
    NoSpace,
    ProtectionFailed,
    StorageError,
    WormViolation,
    storage_failure,
)

RECORD_HEADER_BYTES: Final = 32

UNSYNCED_SEGMENTS: Final = 20
"""Sealed segments that may wait for a sync; then the older half gets it, of which most is on the disk by then. A bound
for what recovery must scan: 5 GiB."""

TRUNCATE_DEAD_BYTES: Final = 1 << 20
"""A truncation that kills more log than this cuts the segment instead of leaving the dead log in it ..."""

SEGMENT_DEAD_BYTES: Final = 16 << 20
"""... and so does one in a segment that carries this much dead log already."""

FILEMARK_RESERVE_BYTES: Final = 64 << 10
"""Filemarks may exceed the capacity by this much, so that a file can be ended at the very end of the partition."""


def record_bytes(stored_length: int, extension_bytes: int = 0) -> int:
    """What a block uses of the partition's capacity: its record, padded to 8 bytes."""
    return (RECORD_HEADER_BYTES + extension_bytes + stored_length + 7) & ~7


def _from(checksums: memoryview | None, done: int) -> tuple[memoryview, ...]:
    """Those of the blocks that are left, as an argument that may be missing."""
    return () if checksums is None else (checksums[done * CHECKSUM_BYTES :],)


def as_os_error(error: Exception) -> OSError:
    """An index that cannot even be rebuilt is an unreadable medium."""
    return error if isinstance(error, OSError) else OSError(errno.EIO, str(error))


class TapePartition:
    """Object numbers count from 0 at the beginning of the partition. The caller holds the logical unit's lock.

    end: the number of objects. filemarks: how many of them are filemarks. room_bytes: capacity that is left.
    """

    def __init__(
        self, segments: SegmentList, manifest: Manifest, next_id: int, capacity_bytes: int, *, listed: bool
    ) -> None:
        """segments: what recovery found; next_id: the next segment's; listed: the manifest says the same."""
        self.segments = segments
        self.store: SegmentStore = segments.store
        self.number = self.store.partition
        self.capacity_bytes = capacity_bytes
        self.failure: StorageError | None = None
        self._manifest = manifest
        self._next_id = next_id
        self._listed = listed
        self._recount()

    def _recount(self) -> None:
        last = self.segments.refresh()
        self.end = last.end
        self.filemarks = last.first_filemark + last.filemarks
        self.room_bytes = self.capacity_bytes - sum(entry.used_bytes for entry in self.segments.entries)

    @property
    def used_bytes(self) -> int:
        """How much of the capacity is used."""
        return self.capacity_bytes - self.room_bytes

    def ends_within(self, position: int, distance_bytes: int) -> bool:
        """Whether no more than so much of the capacity lies between an object, or the end of data, and the end of the
        partition. It looks at no more segments than that distance covers."""
        room_bytes = self.room_bytes
        if position >= self.end:
            return room_bytes <= distance_bytes
        self.segments.refresh()
        for number in reversed(range(self.segments.number_of(position), len(self.segments.entries))):
            if room_bytes > distance_bytes:
                return False
            entry = self.segments.entries[number]
            room_bytes += entry.used_bytes
        return room_bytes - self._used_before(number, position - entry.first_object) <= distance_bytes

    def _used_before(self, number: int, relative: int) -> int:
        """What a segment uses of the capacity before one of its objects."""
        entry = self.segments.entries[number]
        try:
            return self.segments.segment(number).cut_point(relative)[2]
        except (SegmentDamaged, OSError):  # nobody asks this to learn of damage: reading will tell
            return entry.used_bytes * relative // entry.objects

    # ---- writing ----------------------------------------------------------------------------------------------------

    def append(self, data: Buffer, length: int) -> None:
        """One block as the initiator wrote it. Raises EndOfPartition, NoSpace, StorageError, and then wrote nothing."""
        size = (RECORD_HEADER_BYTES + length + 7) & ~7
        if size > self.room_bytes:
            raise EndOfPartition(f"partition {self.number} is full")
        try:
            tail = self.segments.tail
            if tail is None or not tail.append(data):
                self._next_tail().append(data)
        except OSError as error:
            raise self._failed(error, "writing a block") from error
        self.room_bytes -= size
        self.end += 1

    def append_stored(self, block: StoredBlock) -> None:
        """One block in another form. Raises as append() does."""
        size = record_bytes(len(block.payload), len(block.extension))
        if size > self.room_bytes:
            raise EndOfPartition(f"partition {self.number} is full")
        row = (block.payload, block.logical_length, block.logical_crc, int(block.form), block.extension)
        try:
            tail = self.segments.tail
            if tail is None or not tail.append_encoded(*row):
                tail = self._next_tail()
                tail.append_encoded(*row)
        except OSError as error:
            raise self._failed(error, "writing a block") from error
        self.room_bytes -= size
        self.end += 1
        if block.form & Form.ENCRYPTED:
            entry = self.segments.entries[-1]
            note_encrypted(entry, tail, self.end - 1 - entry.first_object)

    def append_many(self, data: Buffer, block_length: int, count: int, checksums: Buffer | None = None) -> None:
        """Equal blocks, with the CRC32C that they came with where they did (Segment.append_many()). Raises as append()
        does; blocks_written tells how many were written before."""
        given = None if checksums is None else memoryview(checksums)
        size = record_bytes(block_length)
        fits = self._how_many_fit(count, size)
        self._append_each(
            fits, size,
            lambda tail, done: tail.append_many(
                data, done * block_length, block_length, fits - done, *_from(given, done)
            ),
        )  # fmt: skip
        if fits < count:
            raise EndOfPartition(f"partition {self.number} is full", fits)

    def append_protected(self, data: Buffer, block_length: int, count: int, method: int) -> None:
        """Equal blocks, each with protection information behind its block_length bytes, which is checked and not kept.
        Raises as append_many() does, and ProtectionFailed at the first block that it does not fit."""
        size = record_bytes(block_length)
        fits, before = self._how_many_fit(count, size), self.end
        slot = block_length + PROTECTION_BYTES
        try:
            self._append_each(
                fits, size,
                lambda tail, done: tail.append_protected(data, done * slot, block_length, fits - done, method),
            )  # fmt: skip
        except ProtectionMismatch as error:
            raise ProtectionFailed("a block and its protection information differ", self.end - before) from error
        if fits < count:
            raise EndOfPartition(f"partition {self.number} is full", fits)

    def append_file(self, run: FileRun) -> int:
        """Equal blocks out of a file. Returns how many were written, and raises nothing: see FileRun."""
        size = record_bytes(run.block_length)
        fits, done, full = self._how_many_fit(run.blocks, size), 0, False
        with suppress(OSError, CartridgeError, MemoryError):
            while done < fits:
                tail = self._next_tail() if full or self.segments.tail is None else self.segments.tail
                taken, full = tail.append_file(*run._replace(blocks=fits).behind(done))
                done += taken
                self.end += taken
                self.room_bytes -= taken * size
                if not full:
                    break
        return done

    def append_filemarks(self, count: int) -> None:
        """Raises as append_many() does."""
        fits = self._how_many_fit(count, RECORD_HEADER_BYTES, FILEMARK_RESERVE_BYTES)
        self._append_each(
            fits, RECORD_HEADER_BYTES, lambda tail, done: tail.append_filemarks(fits - done), filemarks=True
        )
        if fits < count:
            raise EndOfPartition(f"partition {self.number} is full", fits)

    def _how_many_fit(self, count: int, size: int, reserve_bytes: int = 0) -> int:
        # What filemarks and sync marks took beyond the capacity leaves room below 0.
        return min(count, max(0, self.room_bytes + reserve_bytes) // size)

    def _append_each(
        self, count: int, size: int, append: Callable[[Segment, int], int], *, filemarks: bool = False
    ) -> None:
        done = 0
        try:
            while done < count:
                taken = append(self.segments.tail or self._next_tail(), done) or append(self._next_tail(), done)
                done += taken
                self.end += taken
                self.filemarks += taken * filemarks
                self.room_bytes -= taken * size
        except OSError as error:
            raise self._failed(error, "writing", done) from error

    def _next_tail(self) -> Segment:
        """Seal the tail, if there is one, and begin the next segment."""
        segments = self.segments
        if segments.tail is not None:
            self._seal_tail()
        if len(segments.unsynced) >= UNSYNCED_SEGMENTS:
            self._sync_older_half()
        previous = segments.entries[-1].segment_id if segments.entries else 0
        entry, tail = self.store.create(self._next_id, previous, self.end, self.filemarks)
        segments.entries.append(entry)
        segments.tail = tail
        self._next_id += 1
        self._listed = False
        return tail

    def _seal_tail(self) -> None:
        segments = self.segments
        entry, tail = segments.refresh(), segments.tail
        assert tail is not None
        entry.dead_entries = tail.dead_entries
        tail.seal()
        entry.epoch = 0
        self.store.drop_checkpoint(entry.segment_id)
        segments.unsynced[entry.segment_id] = tail
        segments.tail = None

    # ---- durability -------------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Everything written is durable when this returns. Raises NoSpace, StorageError."""
        if self.failure:
            raise self.failure
        try:
            self._sync_sealed()
            self._sync_tail()
            if not self._listed:
                self._list(self._listing())
        except OSError as error:
            raise self._failed(error, "synchronizing") from error

    def _listing(self) -> list[ManifestEntry]:
        """The entries as the manifest shall have them."""
        head = copy.copy(self.segments.refresh())
        if self.segments.tail is None:
            return self.segments.entries
        head.flags = EntryFlag.HEAD
        return [*self.segments.entries[:-1], head]

    def _sync_tail(self) -> None:
        tail = self.segments.tail
        if tail is None:
            return
        before = tail.end
        tail.flush()  # may fail for want of space, and be tried again
        self._sync_segment(self.segments.entries[-1].segment_id, tail)
        self.room_bytes -= tail.end - before

    def _sync_sealed(self, entries: list[ManifestEntry] | None = None) -> None:
        """Of these segments, or all, those that no sync has covered yet."""
        unsynced = self.segments.unsynced
        for segment_id in list(unsynced) if entries is None else [entry.segment_id for entry in entries]:
            if segment_id in unsynced:
                self._sync_segment(segment_id, unsynced[segment_id])
                del unsynced[segment_id]

    def _sync_older_half(self) -> None:
        """Of the sealed segments that wait for a sync, so that the stream does not wait for what it has just written.
        The manifest is then as if it had been written before the first of the others was begun."""
        entries, waiting = self.segments.entries, len(self.segments.unsynced)
        listed = len(entries) - waiting + waiting // 2
        self._sync_sealed(entries[listed - waiting // 2 : listed])
        self._list(entries[:listed], entries[listed].segment_id)

    def _sync_segment(self, segment_id: int, segment: Segment) -> None:
        with self._failure_is_final():
            segment.sync()
            self.store.require(segment_id)  # a file that somebody deleted is synced gladly, and then gone

    def close(self) -> None:
        """Synchronize and leave a checkpoint, so that opening scans nothing. Raises NoSpace, StorageError."""
        self.synchronize()
        tail = self.segments.tail
        if tail is None:
            return
        try:
            if self._manifest.entries[-1] != self._listing()[-1]:
                self._list(self._listing())
            self.store.write_checkpoint(self.segments.entries[-1].segment_id, tail.checkpoint())
        except OSError as error:
            raise self._failed(error, "leaving a checkpoint") from error

    def release(self) -> None:
        """Close all files."""
        if self.segments.tail is not None:
            self.segments.tail.close()
        self.segments.unsynced.clear()
        self.store.close()

    @contextmanager
    def _failure_is_final(self) -> Iterator[None]:
        """After a failed fsync nobody knows what is on disk, and asking again would answer that all is well."""
        try:
            yield
        except OSError as error:
            failure = storage_failure(error, f"partition {self.number}: making written blocks durable")
            self.failure = StorageError(f"{failure}; it is read-only until opened again", error.errno or 0)
            raise

    def _list(self, entries: list[ManifestEntry], next_id: int | None = None) -> None:
        """Write a manifest with these entries, all of them durable. next_id: of the segment after them, where it has
        been begun."""
        manifest = Manifest(
            self.store.cartridge_uuid,
            self.number,
            self._manifest.generation + 1,
            self._next_id if next_id is None else next_id,
            self.store.worm,
            entries,
        )
        try:
            self.store.write_manifest(manifest)
        except OSError as error:
            if not isinstance(storage_failure(error, ""), NoSpace):
                with self._failure_is_final():
                    raise
            raise
        self._manifest = manifest
        self._listed = True

    def _failed(self, error: OSError, doing: str, blocks_written: int = 0) -> Exception:
        if self.failure:
            return StorageError(str(self.failure), self.failure.errno, blocks_written)
        return storage_failure(error, f"partition {self.number}: {doing}", blocks_written)

    # ---- truncation -------------------------------------------------------------------------------------------------

    def truncate(self, position: int, *, physically: bool = False) -> None:
        """Drop every object from `position` on; physically: out of the file too, at once.

        Raises NoSpace, StorageError, WormViolation.
        """
        if position >= self.end:
            return
        if self.failure:
            raise self.failure
        if self.store.worm and not self.only_filemarks_from(position):
            raise WormViolation(f"partition {self.number} of a WORM cartridge: object {position} is written already")
        self.segments.refresh()
        number = self.segments.number_of(position)
        relative = position - self.segments.entries[number].first_object
        try:
            if physically or not self._truncate_tail(number, relative):
                self._cut(number, relative)
        except OSError as error:
            raise self._failed(error, "truncating") from error
        finally:
            self._recount()

    def empty(self) -> None:
        """Drop every object, and every file that held one, whatever the partition knows of it. Durable.

        Raises NoSpace, StorageError."""
        if self.failure:
            raise self.failure
        try:
            if self.segments.entries:
                self._cut(0, 0)
            self.store.delete(self.store.stored_ids())
        except OSError as error:
            raise self._failed(error, "emptying") from error
        finally:
            self._recount()

    def only_filemarks_from(self, position: int) -> bool:
        """Whether nothing but filemarks lies from `position` to the end."""
        return self.filemarks - self.filemarks_before(position) == self.end - position

    def _truncate_tail(self, number: int, relative: int) -> bool:
        """By a record in the log, where that leaves little dead log behind."""
        tail = self.segments.tail
        if tail is None or number != len(self.segments.entries) - 1:
            return False
        end, _, used_bytes = tail.cut_point(relative)
        if tail.end - end > TRUNCATE_DEAD_BYTES or tail.end - used_bytes > SEGMENT_DEAD_BYTES:
            return False
        if not tail.truncate(relative):
            return False
        self.segments.entries[-1].forget_encrypted(relative)
        return True

    def _cut(self, number: int, relative: int) -> None:
        """By the manifest: later segments go, this one ends at the object and is sealed; a new tail will follow it."""
        segments = self.segments
        kept, dropped = segments.entries[:number], segments.entries[number:]
        before, cut, cut_segment = segments.entries[number], None, None
        self._sync_sealed(kept)  # the manifest lists only what is durable
        if relative:
            cut_segment = self._sync_before_cut(number)
            cut = copy.copy(before)
            cut.data_bytes, cut.filemarks, cut.used_bytes = segments.segment(number).cut_point(relative)
            cut.objects, cut.epoch = relative, 0
            cut.forget_encrypted(relative)
            cut.flags = EntryFlag.CUT
            kept, dropped = [*kept, cut], dropped[1:]
        self._list(kept)
        segments.entries = kept
        if segments.tail is not None and segments.tail is not cut_segment:
            segments.tail.close()
        segments.tail = None
        for entry in dropped:
            segments.unsynced.pop(entry.segment_id, None)
        self._reclaim(cut, before, cut_segment, dropped)

    def _sync_before_cut(self, number: int) -> Segment | None:
        """Sync the segment to cut; returns it if it is the tail."""
        self._sync_sealed([self.segments.entries[number]])
        if number < len(self.segments.entries) - 1:
            return None
        self._sync_tail()
        return self.segments.tail

    def _reclaim(
        self, cut: ManifestEntry | None, before: ManifestEntry, tail: Segment | None, dropped: list[ManifestEntry]
    ) -> None:
        """Give back the space of what was cut off. The cut has happened: a crash here only costs space until the
        cartridge is opened again."""
        self.store.delete([entry.segment_id for entry in dropped])
        if cut is None:
            return
        if tail is not None:
            finish_cut(cut, tail)
        else:
            self.store.shorten(cut, before)
        self.store.drop_checkpoint(cut.segment_id)
        self._listed = False

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(self, position: int, into: Buffer, protection: int = 0) -> int:
        """One object, which must exist: see Segment.read(), and read_protected() for a protection method.
        Raises DamagedBlock, StorageError."""
        try:
            segment, relative = self.segments.at(position)
            if protection:
                return segment.read_protected(relative, into, protection)
            return segment.read(relative, into)
        except (SegmentDamaged, OSError) as error:
            raise self._unreadable(error, position) from error

    def _unreadable(self, error: SegmentDamaged | OSError, position: int) -> Exception:
        """What reading an object ended with, as it is told."""
        if isinstance(error, SegmentDamaged):
            return DamagedBlock(self.number, position, "its checksum is wrong")
        if isinstance(error, FileNotFoundError):
            return DamagedBlock(self.number, position, f"{error.filename} is missing")
        return self._failed(error, "reading")

    def filemark(self, number: int) -> int:
        """The object that is the n-th filemark, from 0. Raises StorageError."""
        try:
            return self.segments.filemark(number)
        except (SegmentDamaged, OSError) as error:
            raise self._failed(as_os_error(error), "looking for a filemark") from error

    def filemark_run(self, number: int, wanted: int, backwards: bool) -> int | None:
        """See SegmentList.filemark_run(). Raises StorageError."""
        try:
            return self.segments.filemark_run(number, wanted, backwards=backwards)
        except (SegmentDamaged, OSError) as error:
            raise self._failed(as_os_error(error), "looking for filemarks") from error

    def filemarks_before(self, position: int) -> int:
        """How many filemarks come before an object or the end. Raises StorageError."""
        try:
            return self.segments.filemarks_before(position)
        except (SegmentDamaged, OSError) as error:
            raise self._failed(as_os_error(error), "counting filemarks") from error

    def read_stored(self, position: int, scratch: Scratch) -> StoredBlock:
        """A block as it is stored; its payload lies in `scratch`. Raises as read() does."""
        try:
            segment, relative = self.segments.at(position)
            payload = scratch.take(segment.describe(relative)[3])
            form, logical_length, _, logical_crc, extension = segment.read_stored(relative, payload)
        except (SegmentDamaged, OSError) as error:
            raise self._unreadable(error, position) from error
        return StoredBlock(payload.toreadonly(), logical_length, logical_crc, Form(form), extension)

    def header(self, position: int) -> tuple[int, int, int, bytes] | None:
        """(form, logical_length, logical_crc, extension) of a block; None for a filemark. Raises as read() does."""
        try:
            segment, relative = self.segments.at(position)
            kind, form, logical_length, _, logical_crc, _, extension = segment.describe(relative)
        except (SegmentDamaged, OSError) as error:
            raise self._unreadable(error, position) from error
        return (form, logical_length, logical_crc, extension) if kind == KIND_BLOCK else None

    def read_many(
        self, position: int, into: Buffer, block_length: int, count: int, protection: int = 0,
        checksums: Buffer | None = None,
    ) -> tuple[int, int]:  # fmt: skip
        """Equal blocks: how many, and what stopped it, as Segment.read_many() says, or read_many_protected() for a
        protection method; READ_END is the end of data. checksums: for their CRC32C, without a protection method."""
        verified = None if checksums is None else memoryview(checksums)
        done = 0
        result = block_length
        try:
            while done < count and position + done < self.end:
                segment, relative = self.segments.at(position + done)
                got, result = self._read_some(
                    segment, relative, into, done, block_length, count - done, protection, verified
                )
                done += got
                if result not in (block_length, READ_END):
                    break
        except FileNotFoundError as error:
            raise DamagedBlock(self.number, position + done, f"{error.filename} is missing", done) from error
        except OSError as error:
            raise self._failed(error, "reading") from error
        if result == READ_DAMAGED:
            raise DamagedBlock(self.number, position + done, "its checksum is wrong", done)
        if done < count and result == block_length:
            result = READ_END
        return done, result

    @staticmethod
    def _read_some(
        segment: Segment, relative: int, into: Buffer, done: int, block_length: int, count: int, protection: int,
        checksums: memoryview | None,
    ) -> tuple[int, int]:  # fmt: skip
        if not protection:
            return segment.read_many(relative, into, done * block_length, block_length, count, *_from(checksums, done))
        at = done * (block_length + PROTECTION_BYTES)
        return segment.read_many_protected(relative, into, at, block_length, count, protection)
