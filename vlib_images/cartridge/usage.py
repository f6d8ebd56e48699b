"""Counts over the life of a cartridge: usage.json. Counted as things happen; stored when the cartridge is loaded and
closed, and with a synchronize whenever STORE_EVERY_BYTES have moved, so a crash loses little of them."""

from dataclasses import asdict, dataclass, field
from typing import Final

import structlog

from vlib_images.cartridge.files import CartridgeFiles, read_document, write_document
from vlib_images.errors import CartridgeDamaged

FILE: Final = "usage.json"
MOUNTS_KEPT: Final = 4
STORE_EVERY_BYTES: Final = 1 << 30
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class MediumMount:
    """One load into a drive. Bytes are those of blocks as initiators wrote and read them; stored bytes are what went to
    and came from the medium, behind compression."""

    drive_vendor: str = ""
    drive_serial: str = ""
    bytes_written: int = 0
    bytes_read: int = 0
    stored_bytes_written: int = 0
    stored_bytes_read: int = 0


@dataclass(slots=True)
class PartitionUsage:
    """Stored bytes of one partition since the last format: in all, in this mount and in the one before. entered: how
    often another partition was left for this one. erased: how often it was from its beginning."""

    written: int = 0
    read: int = 0
    mount_written: int = 0
    mount_read: int = 0
    previous_written: int = 0
    previous_read: int = 0
    entered: int = 0
    erased: int = 0


@dataclass(slots=True)
class Usage:
    """loads, bytes and blocks over life; changes: see Cartridge.volume_change_reference(); mounts: the last four, the
    newest first. partitions, loads_since_format: since the last format, when life had come to written_at_format and
    read_at_format stored bytes. Partitions and mounts learn of stored bytes when settle() is called."""

    loads: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
    stored_bytes_written: int = 0
    blocks_written: int = 0
    blocks_read: int = 0
    formats: int = 0
    changes: int = 0
    stored_bytes_read: int = 0
    mounts: list[MediumMount] = field(default_factory=list)
    loads_since_format: int = 0
    written_at_format: int = 0
    read_at_format: int = 0
    partitions: list[PartitionUsage] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.mounts:  # what is written before the first load counts somewhere, too
            self.mounts.append(MediumMount())

    @property
    def mount(self) -> MediumMount:
        """The mount that counts now."""
        return self.mounts[0]

    def wrote(self, blocks: int, length_bytes: int, stored_bytes: int) -> None:
        """Count blocks written."""
        self.blocks_written += blocks
        self.bytes_written += length_bytes
        self.stored_bytes_written += stored_bytes
        self.mounts[0].bytes_written += length_bytes

    def read_some(self, blocks: int, length_bytes: int, stored_bytes: int) -> None:
        """Count blocks read."""
        self.blocks_read += blocks
        self.bytes_read += length_bytes
        self.stored_bytes_read += stored_bytes
        self.mounts[0].bytes_read += length_bytes

    def settle(self, partition: int) -> PartitionUsage:
        """What was counted since the last call happened in this partition; returns its counts."""
        self.partitions += [PartitionUsage() for _ in range(len(self.partitions), partition + 1)]
        here = self.partitions[partition]
        written = self.stored_bytes_written - self.written_at_format - sum(p.written for p in self.partitions)
        read = self.stored_bytes_read - self.read_at_format - sum(p.read for p in self.partitions)
        here.written, here.mount_written = here.written + written, here.mount_written + written
        here.read, here.mount_read = here.read + read, here.mount_read + read
        self.mount.stored_bytes_written += written
        self.mount.stored_bytes_read += read
        return here

    def loaded(self, drive_vendor: str, drive_serial: str) -> None:
        """Count a load into a drive; settle() was called."""
        self.loads += 1
        self.loads_since_format += 1
        self.mounts.insert(0, MediumMount(drive_vendor, drive_serial))
        del self.mounts[MOUNTS_KEPT:]
        for partition in self.partitions:
            partition.previous_written, partition.mount_written = partition.mount_written, 0
            partition.previous_read, partition.mount_read = partition.mount_read, 0

    def formatted(self) -> None:
        """Count a format, which begins the counts of partitions anew; settle() was called."""
        self.formats += 1
        self.loads_since_format = 0
        self.written_at_format, self.read_at_format = self.stored_bytes_written, self.stored_bytes_read
        self.partitions.clear()

    @property
    def bytes_moved(self) -> int:
        """Written and read over life, as stored."""
        return self.stored_bytes_written + self.stored_bytes_read

    def write(self, files: CartridgeFiles) -> None:
        """Raises OSError."""
        write_document(files, FILE, asdict(self))

    @classmethod
    def read_or_begin(cls, files: CartridgeFiles) -> "Usage":
        """As read(), but counters that are lost begin anew: they are no reason to keep the data from anyone."""
        try:
            return cls.read(files)
        except (CartridgeDamaged, FileNotFoundError) as error:
            log.warning("the counters of a cartridge are lost and begin anew", reason=str(error))
            return cls()

    @classmethod
    def read(cls, files: CartridgeFiles) -> "Usage":
        """Raises CartridgeDamaged, OSError."""
        content = read_document(files, FILE)
        try:
            mounts = [MediumMount(**mount) for mount in content.pop("mounts")]
            partitions = [PartitionUsage(**row) for row in content.pop("partitions", [])]
            usage = cls(**content, mounts=mounts, partitions=partitions)
            _check_counts(usage, *usage.mounts, *usage.partitions)
            return usage
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CartridgeDamaged(f"{files.name}/{FILE} is not understood: {error}") from error


def _check_counts(*records: Usage | MediumMount | PartitionUsage) -> None:
    """Raises ValueError where a counter is none."""
    for record in records:
        for name, value in asdict(record).items():
            kind = str if name.startswith("drive_") else list if name in ("mounts", "partitions") else int
            if type(value) is not kind:
                raise ValueError(f"{name} is {value!r}")
