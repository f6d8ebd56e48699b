"""A cartridge: one directory, with everything a medium has. FORMAT.md is the byte-level specification.

This is the medium under the head: the position, moving, writing and reading over the partitions of its
CartridgeStorage. Object numbers count blocks and filemarks from 0 at the beginning of each partition. The caller holds
the lock of the logical unit that the cartridge is loaded in; nothing here is thread-safe by itself.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto
from itertools import repeat
from pathlib import Path
from typing import Final, NamedTuple, Self

import structlog
from typing_extensions import Buffer

from datamover.engine import (
    PROTECTION_BYTES,
    READ_ENCODED,
    READ_END,
    READ_FILEMARK,
    ProtectionMismatch,
    crc32c,
    protection_check,
)
from datamover.file_run import FileRun
from vlib_images.cartridge import codec, decoding, positioning
from vlib_images.cartridge.codec import (
    Decryption,
    Encoder,
    EncryptionKey,
    EncryptionStatus,
    Form,
    RawEncoder,
    Scratch,
    StoredBlock,
)
from vlib_images.cartridge.encrypted_blocks import EncryptedBlocks, find_encrypted
from vlib_images.cartridge.files import CartridgeFiles
from vlib_images.cartridge.medium import MediumType
from vlib_images.cartridge.positioning import SpaceResult, Stop, Track
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.cartridge.storage import CartridgeStorage
from vlib_images.cartridge.usage import PartitionUsage
from vlib_images.errors import (
    CartridgeError,
    DamagedBlock,
    EncryptionProblem,
    InvalidPartition,
    ProtectionFailed,
    WriteStopped,
)

log = structlog.get_logger(__name__)


class ReadKind(Enum):
    """What a read met."""

    BLOCK = auto()
    FILEMARK = auto()
    END_OF_DATA = auto()


class ReadResult(NamedTuple):
    """length: the block's true length in bytes, which may be more than was asked for (0 unless kind is BLOCK)."""

    kind: ReadKind
    length: int = 0


class ReadBlocksResult(NamedTuple):
    """blocks: whole blocks of exactly the wanted length that were read. stopped_by: None when all were; BLOCK when the
    next block has another length, which is `length` (the position is behind it, as it is behind a filemark)."""

    blocks: int
    stopped_by: ReadKind | None = None
    length: int = 0


_BLOCK: Final = ReadKind.BLOCK
_FILEMARK: Final = ReadResult(ReadKind.FILEMARK)
_END_OF_DATA: Final = ReadResult(ReadKind.END_OF_DATA)


class Cartridge:
    """One cartridge, open. Made by create() or open().

    position: the logical object number in the current partition. storage: what it has on disk, of which barcode, uuid
    (32 hexadecimal digits), created (ISO 8601, UTC), medium, capacity_bytes and worm never change; usage counts over
    life, mam is what hosts stored. encoder: compresses and encrypts what is written; None: neither.
    """

    def __init__(self, storage: CartridgeStorage) -> None:
        """Use create() or open()."""
        self.storage = storage
        self.usage = storage.usage
        self.mam = storage.mam
        self.barcode = storage.identity.barcode
        self.uuid = storage.identity.uuid
        self.created = storage.identity.created
        self.medium = storage.identity.medium_type
        self.capacity_bytes = storage.identity.capacity_bytes
        self.worm = storage.identity.worm
        self.encoder: Encoder | RawEncoder | None = None
        self._decryption = Decryption()
        self._reads_plain = True
        self._scratch = Scratch()
        self._enter(0, 0)

    # ---- life -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        place: Path | CartridgeFiles,
        *,
        barcode: str,
        medium: MediumType,
        capacity_bytes: int | None = None,
        worm: bool | None = None,
        partitions: int | Sequence[int] = 1,
        early_warning_bytes: int | None = None,
        limits: SegmentLimits | None = None,
    ) -> Self:
        """As CartridgeStorage.make(); the cartridge is open when this returns."""
        CartridgeStorage.make(
            place,
            barcode=barcode,
            medium=medium,
            capacity_bytes=capacity_bytes,
            worm=worm,
            partitions=partitions,
            early_warning_bytes=early_warning_bytes,
        )
        return cls.open(place, limits=limits)

    @classmethod
    def open(
        cls, place: Path | CartridgeFiles, *, read_only: bool = False, limits: SegmentLimits | None = None
    ) -> Self:
        """After a crash it recovers: see `storage.recovery`.

        read_only: nothing on disk is changed, and any number of readers may have the cartridge open.
        Raises NotACartridge, CartridgeInUse, CartridgeDamaged, StorageError.
        """
        return cls(CartridgeStorage.open(place, read_only=read_only, limits=limits or SegmentLimits()))

    def close(self) -> None:
        """Synchronize, leave a checkpoint so that opening is quick, let go of the lock.

        Raises NoSpace, StorageError; closed all the same. Closing again does nothing.
        """
        self.settle_usage()
        self.storage.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self.storage.lock.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def loaded(self, drive_vendor: str, drive_serial: str) -> None:
        """Count a load into a drive; the position is the beginning of partition 0. Raises NoSpace, StorageError."""
        self.settle_usage()
        self._enter(0, 0)
        self.usage.loaded(drive_vendor, drive_serial)
        self.storage.store_usage()

    def volume_change_reference(self) -> int:
        """A number that will be another one after any later change of the data (MAM attribute 0009h).

        Changes are counted when the first write after open() or after this call begins, durably: a host that keeps the
        number with its catalogue sees every change made behind its back, after a crash too.
        """
        self.storage.watch_for_changes()
        return self.usage.changes

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def partition_count(self) -> int:
        return len(self.storage.partitions)

    def partition_capacity_bytes(self, number: int) -> int:
        return self.storage.partitions[number].capacity_bytes

    def used_bytes(self, number: int) -> int:
        """What the data of a partition uses of its capacity."""
        return self.storage.partitions[number].used_bytes

    def remaining_bytes(self, number: int) -> int:
        """Capacity of a partition that is left, as if positioned at the end of data."""
        return max(0, self.storage.partitions[number].room_bytes)

    @property
    def write_protected(self) -> bool:
        """The tab on the cartridge. Setting it is durable, and raises WriteProtected, NoSpace, StorageError."""
        return self.storage.identity.write_protected

    @write_protected.setter
    def write_protected(self, value: bool) -> None:
        self.storage.change_identity(replace(self.storage.identity, write_protected=value))

    @property
    def append_only(self) -> bool:
        """Like WORM, but for as long as it is switched on. Set as write_protected is."""
        return self.storage.identity.append_only

    @append_only.setter
    def append_only(self, value: bool) -> None:
        self.storage.change_identity(replace(self.storage.identity, append_only=value))

    @property
    def early_warning_bytes(self) -> int:
        """How far before the end of a partition early warning begins. A format sets it to what suits the partitions."""
        return self.storage.identity.early_warning_bytes

    @early_warning_bytes.setter
    def early_warning_bytes(self, value: int) -> None:
        self.storage.change_identity(replace(self.storage.identity, early_warning_bytes=value))

    # ---- position ---------------------------------------------------------------------------------------------------

    def _enter(self, partition: int, position: int) -> None:
        self._partition = self.storage.partitions[partition]
        self._position = position

    def settle_usage(self) -> PartitionUsage:
        """Brings the counts of the current partition up to date and returns them."""
        return self.usage.settle(self._partition.number)

    @property
    def position(self) -> tuple[int, int]:
        """(partition, logical object number of what would be read next)."""
        return self._partition.number, self._position

    @property
    def file_number(self) -> int:
        """Filemarks between the beginning of the partition and the position."""
        return self._track().before(self._position)

    @property
    def at_bop(self) -> bool:
        return self._position == 0

    @property
    def at_eod(self) -> bool:
        return self._position == self._partition.end

    @property
    def early_warning(self) -> bool:
        """What was written last ended at or past early warning, or the disk under the library is nearly full."""
        partition = self._partition
        if self._position != partition.end:
            return False
        room_bytes = partition.room_bytes
        return room_bytes <= self.storage.identity.early_warning_bytes or partition.store.is_low(room_bytes)

    def ends_within(self, distance_bytes: int) -> bool:
        """Whether no more than so much of the capacity lies between the position and the end of the partition."""
        return self._partition.ends_within(self._position, distance_bytes)

    @property
    def past_early_warning(self) -> bool:
        """The position, however it was reached, is at or past early warning."""
        return self.ends_within(self.storage.identity.early_warning_bytes) or self.early_warning

    def end_of_data(self, partition: int) -> int:
        """The number of logical objects of a partition."""
        return self.storage.partitions[partition].end

    def encrypted_blocks(self, partition: int) -> EncryptedBlocks | None:
        """Where a partition is encrypted; None when that is not known."""
        return find_encrypted(self.storage.partitions[partition].segments)

    def _track(self) -> Track:
        partition = self._partition
        return Track(
            partition.end, partition.filemarks, partition.filemark, partition.filemarks_before, partition.filemark_run
        )

    def _move(self, target: tuple[int, SpaceResult]) -> SpaceResult:
        self._position, result = target
        return result

    def rewind(self) -> None:
        """To the beginning of the current partition."""
        self._position = 0

    def space_blocks(self, count: int) -> SpaceResult:
        """Over blocks; negative: backwards. Raises StorageError."""
        return self._move(positioning.space_blocks(self._track(), self._position, count))

    def space_filemarks(self, count: int) -> SpaceResult:
        """Over filemarks; negative: backwards. Raises StorageError."""
        return self._move(positioning.space_filemarks(self._track(), self._position, count))

    def space_sequential_filemarks(self, count: int) -> SpaceResult:
        """To so many filemarks in a row; negative: backwards. Raises StorageError."""
        return self._move(positioning.space_sequential_filemarks(self._track(), self._position, count))

    def space_end_of_data(self) -> SpaceResult:
        """To the end of data of the current partition."""
        self._position = self._partition.end
        return SpaceResult(0)

    def locate_block(self, partition: int, block: int) -> SpaceResult:
        """To a logical object; END_OF_DATA when there are not that many. Raises InvalidPartition."""
        self._change_partition(partition)
        self._position = min(block, self._partition.end)
        return SpaceResult(self._position, Stop.NONE if self._position == block else Stop.END_OF_DATA)

    def locate_file(self, partition: int, file: int) -> SpaceResult:
        """To the beginning of a file. Raises InvalidPartition, StorageError."""
        self._change_partition(partition)
        return self._move(positioning.locate_file(self._track(), file))

    def _change_partition(self, partition: int) -> None:
        if not 0 <= partition < len(self.storage.partitions):
            raise InvalidPartition(f"the cartridge has no partition {partition}")
        if partition != self._partition.number:
            self.settle_usage()
            self.usage.settle(partition).entered += 1
        self._enter(partition, 0)

    # ---- changing ---------------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Everything written before is durable when this returns. Raises NoSpace, StorageError; then it may not be."""
        if self.storage.read_only:
            return
        self.storage.synchronize()
        if not self.storage.usage_is_due:
            return
        self.settle_usage()
        try:
            self.storage.store_usage()
        except CartridgeError as error:  # the data is safe
            log.warning("counters could not be stored", barcode=self.barcode, reason=str(error))

    def erase(self, long: bool = False) -> None:
        """Everything from the position on is gone; durable when it returns. long: its bytes leave the files at once
        (SSC-5 ERASE, LONG bit); else a little may stay there, unreadable, until the segment goes.

        Raises WriteProtected, WormViolation, NoSpace, StorageError.
        """
        self.storage.prepare_write(self._partition, self._position, physically=long)
        self._partition.synchronize()
        self.settle_usage().erased += self.at_bop

    @property
    def usable_bytes(self) -> int:
        """How much of the capacity there is for partitions, whatever they take of it now."""
        usable = self.storage.identity.usable_bytes
        return self.capacity_bytes if usable is None else usable

    def format(self, partition_bytes: Sequence[int], usable_bytes: int | None = None) -> None:
        """Divide the medium anew; all data and all attributes of partitions but the first's are gone. Durable.

        usable_bytes: how much of the capacity there is for partitions from now on; None: as before.
        Raises WriteProtected, WormViolation (a WORM cartridge that has data), InvalidPartition, NoSpace, StorageError.
        """
        self.settle_usage()
        try:
            self.storage.format(partition_bytes, self.usable_bytes if usable_bytes is None else usable_bytes)
        finally:
            if self._partition not in self.storage.partitions or self._position > self._partition.end:
                self._enter(0, 0)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def write_block(self, data: Buffer, protection: int = 0, checksum: int | None = None) -> None:
        """Write one block of 1 to 2**24 - 1 bytes at the position. What was behind the position is gone.

        protection: a method of logical block protection; then the block's last 4 bytes are protection information,
        which is checked and not kept. checksum: the block's CRC32C, where it came with one.
        Raises WriteProtected, WormViolation, EndOfPartition, NoSpace, StorageError; NotRawBlock of a RawEncoder;
        ProtectionFailed: block and protection information differ. ValueError: no such method, or no room for a block.
        """
        view, encoder = memoryview(data), self.encoder
        crc = self._check(view, protection) if protection and (encoder is not None or not self.at_eod) else checksum
        self.storage.prepare_write(self._partition, self._position)
        length = stored_length = view.nbytes
        if encoder is not None:
            length, stored_length = self._write_encoded(encoder, view, protection, crc)
        elif protection:
            length = stored_length = self._write_plain(view, protection)
        elif checksum is not None:
            self._partition.append_many(data, length, 1, checksum.to_bytes(4, sys.byteorder))
        else:
            self._partition.append(data, length)
        self._position += 1
        self.usage.wrote(1, length, stored_length)

    def _write_plain(self, data: memoryview, protection: int, crc: int | None = None) -> int:
        """Returns the block's length."""
        length = data.nbytes - PROTECTION_BYTES if protection else data.nbytes
        if protection:
            self._partition.append_protected(data, length, 1, protection)
        elif crc is not None:
            self._partition.append_many(data, length, 1, crc.to_bytes(4, sys.byteorder))
        else:
            self._partition.append(data, length)
        return length

    def _write_encoded(
        self, encoder: Encoder | RawEncoder, data: memoryview, protection: int, crc: int | None
    ) -> tuple[int, int]:
        """Returns the block's length and what is stored of it."""
        block = encoder.encode(data[:-PROTECTION_BYTES] if protection else data, crc)
        if block is None:
            length = self._write_plain(data, protection, crc)
            return length, length
        self._partition.append_stored(block)
        return block.logical_length, len(block.payload)

    @staticmethod
    def _check(protected: memoryview, method: int) -> int:
        """The block's CRC32C. A block that came damaged must not take away what is behind the position."""
        try:
            return protection_check(protected, method)
        except ProtectionMismatch as error:
            raise ProtectionFailed("a block and its protection information differ") from error

    def write_stored(self, block: StoredBlock) -> None:
        """Write a block as another cartridge stores it. Raises as write_block() does."""
        self.storage.prepare_write(self._partition, self._position)
        self._partition.append_stored(block)
        self._position += 1
        self.usage.wrote(1, block.logical_length, len(block.payload))

    def write_blocks(
        self, data: Buffer, block_length: int, protection: int = 0, checksums: Buffer | None = None
    ) -> int:
        """Write a buffer as blocks of block_length bytes, which with a method of logical block protection count the
        protection information that each ends in; returns how many. checksums: the CRC32C that the blocks came with, as
        native 32-bit numbers, where there is no protection: what changed since is found when they are read. Raises as
        write_block() does, and ValueError when the buffer is no multiple; the error's blocks_written says how many
        blocks are written."""
        view = memoryview(data)
        count, rest = divmod(view.nbytes, block_length)
        if rest:
            raise ValueError(f"the buffer is no multiple of {block_length} bytes")
        if self.encoder is not None:
            return self._write_each(view, block_length, count, protection, checksums)
        length = block_length - PROTECTION_BYTES if protection else block_length
        if protection and not self.at_eod:
            self._check(view[:block_length], protection)
        self.storage.prepare_write(self._partition, self._position)
        before = self._partition.end
        try:
            if protection:
                self._partition.append_protected(data, length, count, protection)
            else:
                self._partition.append_many(data, length, count, checksums)
        finally:
            written = self._partition.end - before
            self._position += written
            self.usage.wrote(written, written * length, written * length)
        return count

    @property
    def writes_files(self) -> bool:
        """Whether blocks of a file may be written as they are: here nothing is overwritten, and nothing encoded."""
        return self.encoder is None and self.at_eod

    def write_file(self, run: FileRun) -> int:
        """Write blocks out of a file at the end of data, while `writes_files`; returns how many (see FileRun). Raises
        WriteProtected, WormViolation, NoSpace, StorageError, and then wrote nothing."""
        self.storage.prepare_write(self._partition, self._position)
        written = self._partition.append_file(run)
        self._position += written
        self.usage.wrote(written, written * run.block_length, written * run.block_length)
        return written

    def _write_each(
        self, data: memoryview, block_length: int, count: int, protection: int, checksums: Buffer | None
    ) -> int:
        known = repeat(None, count) if checksums is None else memoryview(checksums).cast("B").cast("I")
        for number, crc in zip(range(count), known, strict=True):
            try:
                self.write_block(data[number * block_length : (number + 1) * block_length], protection, crc)
            except WriteStopped as error:
                error.blocks_written = number
                raise
        return count

    def write_filemarks(self, count: int) -> None:
        """Write filemarks at the position; durable after synchronize(). Raises as write_blocks() does."""
        if not count:
            return
        self.storage.prepare_write(self._partition, self._position)
        try:
            self._partition.append_filemarks(count)
        finally:
            self._position = self._partition.end

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read_block(self, into: Buffer, protection: int = 0) -> ReadResult:
        """Read the object at the position into a writable buffer, as much of it as fits, and move behind it.

        protection: a method of logical block protection; then a block ends in protection information, which its length
        counts.
        Raises DamagedBlock (the position is behind it), EncryptionProblem (the position stays), StorageError.
        """
        partition, position = self._partition, self._position
        if position >= partition.end:
            return _END_OF_DATA
        self._position = position + 1
        length = partition.read(position, into, protection)
        if length == READ_FILEMARK:
            return _FILEMARK
        if length == READ_ENCODED:
            length, stored_length = self._read_encoded(position, into, protection)
        elif self._reads_plain:
            stored_length = length
        else:
            self._position = position
            raise decoding.not_encrypted(self.position)
        self.usage.read_some(1, length, stored_length)
        return ReadResult(_BLOCK, length + PROTECTION_BYTES if protection else length)

    def read_blocks(
        self, into: Buffer, block_length: int, count: int, protection: int = 0, checksums: Buffer | None = None
    ) -> ReadBlocksResult:
        """Read up to `count` blocks of exactly block_length bytes, one behind the other in `into`.

        protection: as in read_block(); block_length counts the protection information. checksums: a writable buffer
        for the blocks' CRC32C as native 32-bit numbers: those that they were verified by.
        Raises DamagedBlock with blocks_read (the position is behind the damaged one), EncryptionProblem with
        blocks_read (the position is before that block), StorageError.
        """
        if not self._reads_plain:
            return self._read_each(memoryview(into), block_length, count, 0, protection, checksums)
        extra = PROTECTION_BYTES if protection else 0
        length = block_length - extra
        try:
            blocks, result = self._partition.read_many(self._position, into, length, count, protection, checksums)
        except DamagedBlock as error:
            self._position += error.blocks_read + 1
            self.usage.read_some(error.blocks_read, error.blocks_read * length, error.blocks_read * length)
            raise
        self._position += blocks
        self.usage.read_some(blocks, blocks * length, blocks * length)
        if blocks == count:
            return ReadBlocksResult(blocks)
        if result == READ_ENCODED:
            return self._read_each(memoryview(into), block_length, count, blocks, protection, checksums)
        if result == READ_END:
            return ReadBlocksResult(blocks, ReadKind.END_OF_DATA)
        self._position += 1
        if result == READ_FILEMARK:
            return ReadBlocksResult(blocks, ReadKind.FILEMARK)
        return ReadBlocksResult(blocks, ReadKind.BLOCK, result + extra)

    def _read_each(
        self, into: memoryview, block_length: int, count: int, done: int, protection: int, checksums: Buffer | None
    ) -> ReadBlocksResult:
        made = None if checksums is None else memoryview(checksums).cast("B").cast("I")
        while done < count:
            block = into[done * block_length : (done + 1) * block_length]
            try:
                result = self.read_block(block, protection)
            except (DamagedBlock, EncryptionProblem) as error:
                error.blocks_read = done
                raise
            if result.kind is not ReadKind.BLOCK or result.length != block_length:
                return ReadBlocksResult(done, result.kind, result.length)
            if made is not None:
                made[done] = crc32c(block)
            done += 1
        return ReadBlocksResult(done)

    def _read_encoded(self, position: int, into: Buffer, protection: int) -> tuple[int, int]:
        """Returns the block's length and what is stored of it. The position stays before a block that cannot be given
        out (SSC-5 4.2.24)."""
        block = self._partition.read_stored(position, self._scratch)
        try:
            return decoding.give_out(block, self._decryption, (self._partition.number, position), into, protection)
        except EncryptionProblem:
            self._position = position
            raise

    @property
    def decryption(self) -> Decryption:
        """How encrypted blocks are read; DISABLE at first."""
        return self._decryption

    @decryption.setter
    def decryption(self, value: Decryption) -> None:
        self._decryption = value
        self._reads_plain = value.reads_plain

    def next_block_status(self) -> EncryptionStatus | None:
        """What is known of the block at the position without its key; None at a filemark or the end of data."""
        if self.at_eod:
            return None
        header = self._partition.header(self._position)
        return None if header is None else codec.encryption_status(header[0], header[3])

    def can_decrypt_next(self, key: EncryptionKey) -> bool:
        """Whether the block at the position is encrypted with this key. Raises DamagedBlock, StorageError."""
        block = self._partition.read_stored(self._position, self._scratch)
        try:
            return bool(block.form & Form.ENCRYPTED) and bool(codec.decrypt(block, key))
        except codec.WrongKey:
            return False
