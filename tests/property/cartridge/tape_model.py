"""A tape as a list: the oracle that the cartridge is compared with. Written from SSC-5, not from the cartridge."""

from dataclasses import dataclass, field

FILEMARK = None
RECORD_HEADER = 32


@dataclass
class ModelPartition:
    """past: every state since the last promise, the present one last: what a crash may leave."""

    objects: list[bytes | None] = field(default_factory=list)
    past: list[tuple[bytes | None, ...]] = field(default_factory=lambda: [()])

    def remember(self) -> None:
        self.past.append(tuple(self.objects))

    def promise(self) -> None:
        self.past = [tuple(self.objects)]


@dataclass
class TapeModel:
    """Positions count objects; a filemark is None. Results are plain tuples."""

    partitions: list[ModelPartition]
    worm: bool = False
    append_only: bool = False
    partition: int = 0
    position: int = 0

    @property
    def may_write(self) -> bool:
        """Write-once and append-only media let filemarks at the very end be overwritten, and nothing else."""
        behind = self.objects[self.position :]
        return not (self.worm or self.append_only) or all(value is None for value in behind)

    @property
    def may_format(self) -> bool:
        return not (self.worm or self.append_only) or not any(part.objects for part in self.partitions)

    def format(self, count: int) -> None:
        self.partitions = [ModelPartition() for _ in range(count)]
        self.partition = self.position = 0

    def promise(self) -> None:
        for partition in self.partitions:
            partition.promise()

    @property
    def objects(self) -> list[bytes | None]:
        return self.partitions[self.partition].objects

    def write(self, *objects: bytes | None) -> None:
        self.truncate()
        for value in objects:
            self.objects.append(value)
            self.partitions[self.partition].remember()
        self.position = len(self.objects)

    def truncate(self) -> None:
        """What any write does first, one that then has no room too."""
        del self.objects[self.position :]
        self.partitions[self.partition].remember()

    def erase(self) -> None:
        self.truncate()
        self.partitions[self.partition].promise()

    def read(self) -> tuple[str, bytes]:
        if self.position == len(self.objects):
            return "END_OF_DATA", b""
        value = self.objects[self.position]
        self.position += 1
        return ("FILEMARK", b"") if value is None else ("BLOCK", value)

    def read_many(self, block_length: int, count: int) -> tuple[bytes, str | None, int]:
        data = b""
        for _ in range(count):
            kind, value = self.read()
            if kind != "BLOCK":
                return data, kind, 0
            if len(value) != block_length:
                return data, kind, len(value)
            data += value
        return data, None, 0

    def file_number(self) -> int:
        return self.objects[: self.position].count(None)

    def space_blocks(self, count: int) -> tuple[int, str]:
        for moved in range(abs(count)):
            stop = self._step(1 if count > 0 else -1)
            if stop:
                return moved, stop
        return abs(count), "NONE"

    def _step(self, direction: int) -> str:
        """Over one object; says what it was unless a block."""
        if direction > 0 and self.position == len(self.objects):
            return "END_OF_DATA"
        if direction < 0 and self.position == 0:
            return "BEGINNING_OF_PARTITION"
        value = self.objects[self.position if direction > 0 else self.position - 1]
        self.position += direction
        return "FILEMARK" if value is None else ""

    def space_filemarks(self, count: int) -> tuple[int, str]:
        moved = 0
        while moved < abs(count):
            stop = self._step(1 if count > 0 else -1)
            if stop == "FILEMARK":
                moved += 1
            elif stop:
                return moved, stop
        return moved, "NONE"

    def space_sequential_filemarks(self, count: int) -> tuple[int, str]:
        run = 0
        while run < abs(count):
            stop = self._step(1 if count > 0 else -1)
            if stop in ("END_OF_DATA", "BEGINNING_OF_PARTITION"):
                return 0, stop
            run = run + 1 if stop == "FILEMARK" else 0
        return abs(count), "NONE"

    def locate_block(self, partition: int, block: int) -> str:
        self.partition = partition
        self.position = min(block, len(self.objects))
        return "NONE" if self.position == block else "END_OF_DATA"

    def locate_file(self, partition: int, file: int) -> str:
        self.partition, self.position = partition, 0
        return self.space_filemarks(file)[1]
