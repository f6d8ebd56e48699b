"""A cartridge: one directory, with everything a medium has. FORMAT.md is the byte-level specification.

The caller holds the lock of the logical unit that the cartridge is loaded in; nothing here is thread-safe by itself.
"""

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import structlog

from vlib_images.cartridge.files import CartridgeFiles, Lock, files_of
from vlib_images.cartridge.identity import LIMIT_PARTITIONS, CartridgeIdentity, default_early_warning
from vlib_images.cartridge.mam import MamStore
from vlib_images.cartridge.medium import MediumType
from vlib_images.cartridge.recovery import RecoveryReport, create_partition, open_partition, remove_partition
from vlib_images.cartridge.segments import SegmentLimits, SegmentStore
from vlib_images.cartridge.transport import ReadBlocksResult, ReadKind, ReadResult, Transport
from vlib_images.cartridge.usage import STORE_EVERY_BYTES, Usage
from vlib_images.errors import (
    CartridgeInUse,
    InvalidPartition,
    NotACartridge,
    WormViolation,
    WriteProtected,
    storage_failure,
)

__all__ = ["Cartridge", "ReadBlocksResult", "ReadKind", "ReadResult"]

LOCK: Final = "lock"
log = structlog.get_logger(__name__)


class Cartridge(Transport):
    """One cartridge, open. Made by create() or open().

    position: the logical object number in the current partition. recovery: what open() found, one report a partition.
    usage: counts over life. mam: what hosts stored. append_only: like WORM, but for as long as it is switched on.
    """

    def __init__(
        self, files: CartridgeFiles, identity: CartridgeIdentity, lock: Lock, *, read_only: bool, limits: SegmentLimits
    ) -> None:
        """Use create() or open()."""
        super().__init__()
        self.files = files
        self.read_only = read_only
        self._identity = identity
        self._lock = lock
        self._limits = limits
        self.recovery: list[RecoveryReport] = []
        self.mam = MamStore.read_or_begin(files, len(identity.partition_bytes))
        self.usage = Usage.read_or_begin(files)
        self._usage_stored_at = self.usage.bytes_moved
        self._change_counted = False
        self._open_partitions()

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
        """As make(); the cartridge is open when this returns."""
        cls.make(
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
    def make(
        cls,
        place: Path | CartridgeFiles,
        *,
        barcode: str,
        medium: MediumType,
        capacity_bytes: int | None = None,
        worm: bool | None = None,
        partitions: int | Sequence[int] = 1,
        early_warning_bytes: int | None = None,
    ) -> None:
        """A new cartridge in a directory, or a store, that does not exist yet or is empty.

        capacity_bytes: None takes the medium's own. partitions: how many (equal) ones, or the bytes of each.
        Raises InvalidPartition, StorageError, NoSpace, FileExistsError.
        """
        capacity = medium.capacity_bytes if capacity_bytes is None else capacity_bytes
        if medium.cleaning:
            raise InvalidPartition("a cleaning cartridge holds no data")
        sizes = (capacity // partitions,) * partitions if isinstance(partitions, int) else tuple(partitions)
        early_warning = default_early_warning(min(sizes)) if early_warning_bytes is None else early_warning_bytes
        identity = CartridgeIdentity(
            uuid=uuid.uuid4().hex,
            barcode=barcode,
            medium=medium.name,
            capacity_bytes=capacity,
            partition_bytes=(),
            early_warning_bytes=early_warning,
            worm=medium.worm if worm is None else worm,
            append_only=False,
            write_protected=False,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        ).with_partitions(sizes)
        try:
            files = files_of(place)
            files.make()
            if files.names():
                raise FileExistsError(f"{files.name} is not empty")
            cls._create_files(files, identity)
        except FileExistsError:
            raise
        except OSError as error:
            raise storage_failure(error, f"creating cartridge {barcode}") from error

    @classmethod
    def _create_files(cls, files: CartridgeFiles, identity: CartridgeIdentity) -> None:
        """cartridge.json comes last: without it the directory is no cartridge."""
        for number in range(len(identity.partition_bytes)):
            create_partition(cls._store(files, identity, number, SegmentLimits()))
        MamStore.create(files, len(identity.partition_bytes))
        Usage().write(files)
        files.replace(LOCK, b"")
        identity.write(files)
        files.synchronize_name()

    @classmethod
    def open(
        cls, place: Path | CartridgeFiles, *, read_only: bool = False, limits: SegmentLimits | None = None
    ) -> Self:
        """After a crash it recovers: see `recovery`.

        read_only: nothing on disk is changed, and any number of readers may have the cartridge open.
        Raises NotACartridge, CartridgeInUse, CartridgeDamaged, StorageError.
        """
        files = files_of(place)
        try:
            identity = CartridgeIdentity.read(files)
            lock = cls._take_lock(files, shared=read_only)
        except OSError as error:
            raise storage_failure(error, f"opening the cartridge in {files.name}") from error
        try:
            return cls(files, identity, lock, read_only=read_only, limits=limits or SegmentLimits())
        except OSError as error:
            lock.close()
            raise storage_failure(error, f"opening cartridge {identity.barcode}") from error
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def _take_lock(files: CartridgeFiles, *, shared: bool) -> Lock:
        try:
            return files.lock(LOCK, shared=shared)
        except FileNotFoundError as error:
            raise NotACartridge(f"{files.name} has no file {LOCK}") from error
        except BlockingIOError as error:
            raise CartridgeInUse(f"{files.name} is in use: it is in a drive, or open in another program") from error

    @staticmethod
    def _store(files: CartridgeFiles, identity: CartridgeIdentity, number: int, limits: SegmentLimits) -> SegmentStore:
        return SegmentStore(files.folder(f"p{number}"), identity.uuid_bytes, number, limits, identity.worm)

    def _open_partitions(self) -> None:
        if not self.read_only:
            self._forget_partitions()
        opened = [
            open_partition(
                self._store(self.files, self._identity, number, self._limits), capacity, writable=not self.read_only
            )
            for number, capacity in enumerate(self._identity.partition_bytes)
        ]
        self._partitions = [partition for partition, _ in opened]
        self.recovery = [report for _, report in opened]
        for report in self.recovery:
            if not report.clean:
                log.warning("cartridge recovered", barcode=self.barcode, report=str(report))
        self._enter(0, 0)

    def _forget_partitions(self) -> None:
        """What a format with fewer partitions left, now that cartridge.json says so."""
        for number in range(len(self._identity.partition_bytes), LIMIT_PARTITIONS):
            store = self._store(self.files, self._identity, number, self._limits)
            if store.files.exists() and not remove_partition(store):
                log.warning("cartridge.json knows nothing of a partition that has data", directory=store.files.name)

    def close(self) -> None:
        """Synchronize, leave a checkpoint so that opening is quick, let go of the lock.

        Raises NoSpace, StorageError; closed all the same. Closing again does nothing.
        """
        if self._lock.closed:
            return
        try:
            if not self.read_only:
                for partition in self._partitions:
                    partition.close()
                self._store_usage()
        except OSError as error:
            raise storage_failure(error, f"closing cartridge {self.barcode}") from error
        finally:
            for partition in self._partitions:
                partition.release()
            self._lock.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._lock.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def loaded(self, drive_vendor: str, drive_serial: str) -> None:
        """Count a load into a drive; the position is the beginning of partition 0. Raises NoSpace, StorageError."""
        self.settle_usage()
        self._enter(0, 0)
        self.usage.loaded(drive_vendor, drive_serial)
        if self.read_only:
            return
        try:
            self._store_usage()
        except OSError as error:
            raise storage_failure(error, f"cartridge {self.barcode}") from error

    def _store_usage(self) -> None:
        self.settle_usage()
        self.usage.write(self.files)
        self._usage_stored_at = self.usage.bytes_moved

    def volume_change_reference(self) -> int:
        """A number that will be another one after any later change of the data (MAM attribute 0009h).

        Changes are counted when the first write after open() or after this call begins, durably: a host that keeps the
        number with its catalogue sees every change made behind its back, after a crash too.
        """
        self._change_counted = False
        return self.usage.changes

    def _count_change(self) -> None:
        self.usage.changes += 1
        try:
            self.usage.write(self.files)
        except OSError as error:
            raise storage_failure(error, f"cartridge {self.barcode}") from error
        self._change_counted = True

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def barcode(self) -> str:
        return self._identity.barcode

    @property
    def uuid(self) -> str:
        """32 hexadecimal digits."""
        return self._identity.uuid

    @property
    def created(self) -> str:
        """When it was made, ISO 8601, UTC."""
        return self._identity.created

    @property
    def medium(self) -> MediumType:
        return self._identity.medium_type

    @property
    def capacity_bytes(self) -> int:
        return self._identity.capacity_bytes

    @property
    def worm(self) -> bool:
        return self._identity.worm

    @property
    def partition_count(self) -> int:
        return len(self._partitions)

    def partition_capacity_bytes(self, number: int) -> int:
        return self._partitions[number].capacity_bytes

    def used_bytes(self, number: int) -> int:
        """What the data of a partition uses of its capacity."""
        return self._partitions[number].used_bytes

    def remaining_bytes(self, number: int) -> int:
        """Capacity of a partition that is left, as if positioned at the end of data."""
        return max(0, self._partitions[number].room_bytes)

    @property
    def write_protected(self) -> bool:
        """The tab on the cartridge."""
        return self._identity.write_protected

    @write_protected.setter
    def write_protected(self, value: bool) -> None:
        self._change_identity(replace(self._identity, write_protected=value))

    @property
    def append_only(self) -> bool:
        return self._identity.append_only

    @append_only.setter
    def append_only(self, value: bool) -> None:
        self._change_identity(replace(self._identity, append_only=value))

    @property
    def early_warning_bytes(self) -> int:
        """How far before the end of a partition early warning begins. A format sets it to what suits the partitions."""
        return self._identity.early_warning_bytes

    @early_warning_bytes.setter
    def early_warning_bytes(self, value: int) -> None:
        self._change_identity(replace(self._identity, early_warning_bytes=value))

    def _change_identity(self, identity: CartridgeIdentity) -> None:
        if self.read_only:
            raise WriteProtected(f"cartridge {self.barcode} is open for reading only")
        try:
            identity.write(self.files)
        except OSError as error:
            raise storage_failure(error, f"cartridge {self.barcode}") from error
        self._identity = identity

    # ---- changing ---------------------------------------------------------------------------------------------------

    def _prepare_write(self, *, physically: bool = False) -> None:
        if self.read_only or self._identity.write_protected:
            raise WriteProtected(f"cartridge {self.barcode} is write protected")
        if not self._change_counted:
            self._count_change()
        if self._position == self._partition.end:
            return
        if self._identity.append_only and not self._partition.only_filemarks_from(self._position):
            raise WormViolation(f"cartridge {self.barcode} is in append-only mode")
        self._partition.truncate(self._position, physically=physically)

    def synchronize(self) -> None:
        """Everything written before is durable when this returns. Raises NoSpace, StorageError; then it may not be."""
        if self.read_only:
            return
        for partition in self._partitions:
            partition.synchronize()
        if self.usage.bytes_moved - self._usage_stored_at < STORE_EVERY_BYTES:
            return
        try:
            self._store_usage()
        except OSError as error:  # the data is safe
            log.warning("counters could not be stored", barcode=self.barcode, reason=str(error))

    def erase(self, long: bool = False) -> None:
        """Everything from the position on is gone; durable when it returns. long: its bytes leave the files at once
        (SSC-5 ERASE, LONG bit); else a little may stay there, unreadable, until the segment goes.

        Raises WriteProtected, WormViolation, NoSpace, StorageError.
        """
        self._prepare_write(physically=long)
        self._partition.synchronize()
        self.settle_usage().erased += self.at_bop

    def format(self, partition_bytes: Sequence[int]) -> None:
        """Divide the medium anew; all data and all attributes of partitions but the first's are gone. Durable.

        Raises WriteProtected, WormViolation (a WORM cartridge that has data), InvalidPartition, NoSpace, StorageError.
        """
        if self.read_only or self.write_protected:
            raise WriteProtected(f"cartridge {self.barcode} is write protected")
        if (self.worm or self.append_only) and any(partition.end for partition in self._partitions):
            raise WormViolation(f"cartridge {self.barcode} has data and cannot be formatted")
        identity = replace(
            self._identity.with_partitions(tuple(partition_bytes)),
            early_warning_bytes=default_early_warning(min(partition_bytes)),
        )
        self._count_change()
        try:
            self._format(identity)
        except OSError as error:
            raise storage_failure(error, f"formatting cartridge {self.barcode}") from error

    def _format(self, identity: CartridgeIdentity) -> None:
        """Data goes first: a crash on the way leaves the old partitions, empty or not, and then the new ones."""
        for partition in self._partitions:
            partition.empty()
        self._enter(0, 0)
        for number in range(len(self._partitions), len(identity.partition_bytes)):
            create_partition(self._store(self.files, identity, number, self._limits))
        self.files.synchronize()
        self._change_identity(identity)
        for partition in self._partitions:
            partition.release()
        self._open_partitions()
        self.mam.reset(len(identity.partition_bytes))
        self.settle_usage()
        self.usage.formatted()
        self._store_usage()
