"""What a cartridge is, apart from its data: cartridge.json. FORMAT.md, "cartridge.json"."""

import uuid as uuids
from dataclasses import asdict, dataclass, replace
from typing import Final

from vlib_images.cartridge.files import CartridgeFiles, read_document, write_document
from vlib_images.cartridge.medium import MEDIA, MediumType
from vlib_images.errors import CartridgeDamaged, InvalidPartition, NotACartridge

FORMAT_VERSION: Final = 1
FILE: Final = "cartridge.json"
LIMIT_PARTITIONS: Final = 4


def default_early_warning(capacity_bytes: int) -> int:
    """How far before the end of a partition early warning begins: about the distance of a real LTO drive on a full-size
    cartridge, and on a tiny one enough for what hosts have under way and for trailer labels."""
    return min(max(capacity_bytes // 50, 4 << 20), capacity_bytes // 4, 1 << 30)


@dataclass(frozen=True, slots=True)
class CartridgeIdentity:
    """uuid: 32 hexadecimal digits. partition_bytes: the capacity of each partition, in bytes. usable_bytes: how
    much of the capacity there is for partitions; None: all of it."""

    uuid: str
    barcode: str
    medium: str
    capacity_bytes: int
    partition_bytes: tuple[int, ...]
    early_warning_bytes: int
    worm: bool
    append_only: bool
    write_protected: bool
    created: str
    format_version: int = FORMAT_VERSION
    usable_bytes: int | None = None

    @property
    def uuid_bytes(self) -> bytes:
        return uuids.UUID(self.uuid).bytes

    @property
    def medium_type(self) -> MediumType:
        return MEDIA[self.medium]

    def with_partitions(self, sizes: tuple[int, ...]) -> "CartridgeIdentity":
        """Raises InvalidPartition unless the sizes fit the cartridge and its medium allows that many."""
        most = min(LIMIT_PARTITIONS, self.medium_type.maximum_partitions)
        if not 1 <= len(sizes) <= most:
            raise InvalidPartition(f"a cartridge of type {self.medium} has 1 to {most} partitions, not {len(sizes)}")
        if min(sizes) <= 0 or sum(sizes) > self.capacity_bytes:
            raise InvalidPartition(f"partitions of {sizes} bytes do not fit {self.capacity_bytes} bytes of capacity")
        return replace(self, partition_bytes=sizes)

    def write(self, files: CartridgeFiles) -> None:
        """Durable when it returns. Raises OSError."""
        content = asdict(self)
        if self.usable_bytes is None:
            del content["usable_bytes"]  # as it always was
        write_document(files, FILE, content)

    @classmethod
    def read(cls, files: CartridgeFiles) -> "CartridgeIdentity":
        """Raises NotACartridge, CartridgeDamaged, OSError."""
        try:
            content = read_document(files, FILE)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotACartridge(f"{files.name} is no cartridge: it has no {FILE}") from error
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise NotACartridge(
                f"{files.name} has format version {version}; this Tapebay knows version {FORMAT_VERSION}"
            )
        try:
            identity = cls(**{**content, "partition_bytes": tuple(content["partition_bytes"])})
            identity._check()
        except (TypeError, KeyError, ValueError) as error:
            raise CartridgeDamaged(f"{files.name}/{FILE} lacks something: {error}") from error
        if identity.medium not in MEDIA:
            raise NotACartridge(f"{files.name} is of a medium type that this Tapebay does not know: {identity.medium}")
        return identity

    def _check(self) -> None:
        """Raises ValueError where a value is none that create() or a format makes: somebody else wrote the file."""
        if any(type(text) is not str for text in (self.uuid, self.barcode, self.medium, self.created)):
            raise ValueError("a text is none")
        uuids.UUID(self.uuid)
        usable = () if self.usable_bytes is None else (self.usable_bytes,)
        sizes = (self.capacity_bytes, self.early_warning_bytes, *self.partition_bytes, *usable)
        if not 1 <= len(self.partition_bytes) <= LIMIT_PARTITIONS:
            raise ValueError(f"{len(self.partition_bytes)} partitions")
        if any(type(size) is not int or not 0 <= size < 1 << 63 for size in sizes):
            raise ValueError("a size is no number of bytes")
        if any(type(flag) is not bool for flag in (self.worm, self.append_only, self.write_protected)):
            raise ValueError("a flag is neither true nor false")
