"""What a cartridge has on disk, open: its files and lock, identity, partitions, attributes and counts.

It knows no position: Cartridge moves, reads and writes over it.
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
from vlib_images.cartridge.partition import TapePartition
from vlib_images.cartridge.recovery import RecoveryReport, create_partition, open_partition, remove_partition
from vlib_images.cartridge.segments import SegmentLimits, SegmentStore
from vlib_images.cartridge.usage import STORE_EVERY_BYTES, Usage
from vlib_images.errors import (
    CartridgeInUse,
    InvalidPartition,
    NotACartridge,
    WormViolation,
    WriteProtected,
    storage_failure,
)

LOCK: Final = "lock"
log = structlog.get_logger(__name__)


def segment_store(
    files: CartridgeFiles, identity: CartridgeIdentity, number: int, limits: SegmentLimits
) -> SegmentStore:
    """The segments of one partition."""
    return SegmentStore(files.folder(f"p{number}"), identity.uuid_bytes, number, limits, identity.worm)


class CartridgeStorage:
    """Made by make(), opened by open().

    recovery: what open() found, one report a partition. usage: counts over life. mam: what hosts stored.
    """

    def __init__(
        self, files: CartridgeFiles, identity: CartridgeIdentity, lock: Lock, *, read_only: bool, limits: SegmentLimits
    ) -> None:
        """Use open()."""
        self.files = files
        self.identity = identity
        self.lock = lock
        self.read_only = read_only
        self.limits = limits
        self.mam = MamStore.read_or_begin(files, len(identity.partition_bytes))
        self.usage = Usage.read_or_begin(files)
        self._usage_stored_at = self.usage.bytes_moved
        self._change_counted = False
        self.partitions: list[TapePartition] = []
        self.recovery: list[RecoveryReport] = []
        self._open_partitions()

    # ---- life -------------------------------------------------------------------------------------------------------

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
            create_partition(segment_store(files, identity, number, SegmentLimits()))
        MamStore.create(files, len(identity.partition_bytes))
        Usage().write(files)
        files.replace(LOCK, b"")
        identity.write(files)
        files.synchronize_name()

    @classmethod
    def open(cls, place: Path | CartridgeFiles, *, read_only: bool, limits: SegmentLimits) -> Self:
        """As Cartridge.open()."""
        files = files_of(place)
        try:
            identity = CartridgeIdentity.read(files)
            lock = cls._take_lock(files, shared=read_only)
        except OSError as error:
            raise storage_failure(error, f"opening the cartridge in {files.name}") from error
        try:
            return cls(files, identity, lock, read_only=read_only, limits=limits)
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

    def _open_partitions(self) -> None:
        if not self.read_only:
            self._forget_partitions()
        opened = [
            open_partition(
                segment_store(self.files, self.identity, number, self.limits), capacity, writable=not self.read_only
            )
            for number, capacity in enumerate(self.identity.partition_bytes)
        ]
        self.partitions = [partition for partition, _ in opened]
        self.recovery = [report for _, report in opened]
        for report in self.recovery:
            if not report.clean:
                log.warning("cartridge recovered", barcode=self.identity.barcode, report=str(report))

    def _forget_partitions(self) -> None:
        """What a format with fewer partitions left, now that cartridge.json says so."""
        for number in range(len(self.identity.partition_bytes), LIMIT_PARTITIONS):
            store = segment_store(self.files, self.identity, number, self.limits)
            if store.files.exists() and not remove_partition(store):
                log.warning("cartridge.json knows nothing of a partition that has data", directory=store.files.name)

    def close(self) -> None:
        """Synchronize, leave a checkpoint so that opening is quick, let go of the lock.

        Raises NoSpace, StorageError; closed all the same. Closing again does nothing.
        """
        if self.lock.closed:
            return
        try:
            if not self.read_only:
                for partition in self.partitions:
                    partition.close()
                self._store_usage()
        except OSError as error:
            raise self._failed(error, "closing ") from error
        finally:
            for partition in self.partitions:
                partition.release()
            self.lock.close()

    def _failed(self, error: OSError, doing: str = "") -> Exception:
        return storage_failure(error, f"{doing}cartridge {self.identity.barcode}")

    # ---- identity and counts ----------------------------------------------------------------------------------------

    def change_identity(self, identity: CartridgeIdentity) -> None:
        """Durable when it returns. Raises WriteProtected, NoSpace, StorageError."""
        if self.read_only:
            raise WriteProtected(f"cartridge {self.identity.barcode} is open for reading only")
        try:
            identity.write(self.files)
        except OSError as error:
            raise self._failed(error) from error
        self.identity = identity

    def store_usage(self) -> None:
        """Raises NoSpace, StorageError."""
        if self.read_only:
            return
        try:
            self._store_usage()
        except OSError as error:
            raise self._failed(error) from error

    def _store_usage(self) -> None:
        self.usage.write(self.files)
        self._usage_stored_at = self.usage.bytes_moved

    def watch_for_changes(self) -> None:
        """The next write counts as a change again, durably."""
        self._change_counted = False

    def _count_change(self) -> None:
        self.usage.changes += 1
        try:
            self.usage.write(self.files)
        except OSError as error:
            raise self._failed(error) from error
        self._change_counted = True

    # ---- changing ---------------------------------------------------------------------------------------------------

    def prepare_write(self, partition: TapePartition, position: int, *, physically: bool = False) -> None:
        """What is behind the position goes. Raises WriteProtected, WormViolation, NoSpace, StorageError."""
        if self.read_only or self.identity.write_protected:
            raise WriteProtected(f"cartridge {self.identity.barcode} is write protected")
        if not self._change_counted:
            self._count_change()
        if position == partition.end:
            return
        if self.identity.append_only and not partition.only_filemarks_from(position):
            raise WormViolation(f"cartridge {self.identity.barcode} is in append-only mode")
        partition.truncate(position, physically=physically)

    def synchronize(self) -> None:
        """The data of all partitions is durable when it returns. Raises NoSpace, StorageError."""
        for partition in self.partitions:
            partition.synchronize()

    @property
    def usage_is_due(self) -> bool:
        """Enough was moved since the counts were stored."""
        return self.usage.bytes_moved - self._usage_stored_at >= STORE_EVERY_BYTES

    def format(self, partition_bytes: Sequence[int], usable_bytes: int) -> None:
        """As Cartridge.format(); the counts are settled, and `partitions` are others afterwards."""
        if self.read_only or self.identity.write_protected:
            raise WriteProtected(f"cartridge {self.identity.barcode} is write protected")
        if (self.identity.worm or self.identity.append_only) and any(partition.end for partition in self.partitions):
            raise WormViolation(f"cartridge {self.identity.barcode} has data and cannot be formatted")
        identity = replace(
            self.identity.with_partitions(tuple(partition_bytes)),
            usable_bytes=None if usable_bytes == self.identity.capacity_bytes else usable_bytes,
            early_warning_bytes=default_early_warning(min(partition_bytes)),
        )
        self._count_change()
        try:
            self._format(identity)
        except OSError as error:
            raise storage_failure(error, f"formatting cartridge {self.identity.barcode}") from error

    def _format(self, identity: CartridgeIdentity) -> None:
        """Data goes first: a crash on the way leaves the old partitions, empty or not, and then the new ones."""
        for partition in self.partitions:
            partition.empty()
        for number in range(len(self.partitions), len(identity.partition_bytes)):
            create_partition(segment_store(self.files, identity, number, self.limits))
        self.files.synchronize()
        self.change_identity(identity)
        for partition in self.partitions:
            partition.release()
        self._open_partitions()
        self.mam.reset(len(identity.partition_bytes))
        self.usage.formatted()
        self._store_usage()
