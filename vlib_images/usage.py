"""Counts over the life of a cartridge: usage.json. Counted as things happen, stored when the cartridge is synchronized
or closed, so a crash loses at most what was counted since."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import structlog

from vlib_images.documents import read_document, write_document
from vlib_images.errors import CartridgeDamaged

FILE: Final = "usage.json"
MOUNTS_KEPT: Final = 4
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Mount:
    """One load into a drive. Bytes are those of blocks as initiators wrote and read them."""

    drive_vendor: str = ""
    drive_serial: str = ""
    bytes_written: int = 0
    bytes_read: int = 0


@dataclass(slots=True)
class Usage:
    """loads, bytes and blocks over life; changes: see Cartridge.volume_change_reference(); mounts: the last four, the
    newest first."""

    loads: int = 0
    bytes_written: int = 0
    bytes_read: int = 0
    stored_bytes_written: int = 0
    blocks_written: int = 0
    blocks_read: int = 0
    formats: int = 0
    changes: int = 0
    stored_bytes_read: int = 0
    mounts: list[Mount] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.mounts:  # what is written before the first load counts somewhere, too
            self.mounts.append(Mount())

    @property
    def mount(self) -> Mount:
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

    def loaded(self, drive_vendor: str, drive_serial: str) -> None:
        """Count a load into a drive."""
        self.loads += 1
        self.mounts.insert(0, Mount(drive_vendor, drive_serial))
        del self.mounts[MOUNTS_KEPT:]

    def write(self, directory: Path) -> None:
        """Raises OSError."""
        write_document(directory / FILE, asdict(self))

    @classmethod
    def read_or_begin(cls, directory: Path) -> "Usage":
        """As read(), but counters that are lost begin anew: they are no reason to keep the data from anyone."""
        try:
            return cls.read(directory)
        except (CartridgeDamaged, FileNotFoundError) as error:
            log.warning("the counters of a cartridge are lost and begin anew", reason=str(error))
            return cls()

    @classmethod
    def read(cls, directory: Path) -> "Usage":
        """Raises CartridgeDamaged, OSError."""
        content = read_document(directory / FILE)
        try:
            mounts = [Mount(**mount) for mount in content.pop("mounts")]
            return cls(**content, mounts=mounts)
        except (KeyError, TypeError) as error:
            raise CartridgeDamaged(f"{directory / FILE} is not understood: {error}") from error
