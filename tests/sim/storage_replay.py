"""What storage may look like after a crash: replays a trace of writes, dropping and tearing what no sync had covered.

The model is harsher than any real file system: of everything since the last fdatasync of a file, any subset of its
pages may be there; of the names changed since the last fsync of a directory, any subset may be changed.
"""

import random
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
OPERATIONS = ("open", "read", "write", "allocate", "truncate", "sync", "rename", "unlink", "sync_directory", "exchange",
              "sync_file_system")  # fmt: skip
HEAD = struct.Struct("<BBHIQ")


@dataclass(frozen=True)
class Step:
    """One change of storage, in the order it was made. end: where its entry ends in the trace file."""

    operation: str
    path: str
    offset: int
    data: bytes
    end: int

    @property
    def directory(self) -> str:
        return str(Path(self.path).parent)


def read_trace(trace: Path, root: Path) -> list[Step]:
    """The steps of a trace; paths are made relative to `root`."""

    def relative(path: bytes) -> str:
        return str(Path(path.decode()).relative_to(root))

    content = trace.read_bytes()
    steps, at = [], 0
    while at < len(content):
        operation, _, path_length, length, offset = HEAD.unpack_from(content, at)
        path = relative(content[at + HEAD.size : at + HEAD.size + path_length])
        at += HEAD.size + path_length + length
        data = content[at - length : at]
        if OPERATIONS[operation] in ("rename", "exchange"):
            data = relative(data).encode()
        steps.append(Step(OPERATIONS[operation], path, offset, data, at))
    return steps


@dataclass
class Disk:
    """Files as inodes, so that a name and a content can survive independently of each other."""

    inodes: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    @classmethod
    def snapshot(cls, root: Path) -> "Disk":
        disk = cls()
        for path in sorted(root.rglob("*")):
            if path.is_file():
                disk.names[str(path.relative_to(root))] = len(disk.inodes)
                disk.inodes[len(disk.inodes)] = bytearray(path.read_bytes())
        return disk

    def copy(self) -> "Disk":
        return Disk({number: bytearray(content) for number, content in self.inodes.items()}, dict(self.names))

    def write_to(self, root: Path) -> None:
        for name, inode in self.names.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.inodes[inode])

    def change_content(self, inode: int, step: Step, data: bytes) -> None:
        content = self.inodes[inode]
        if step.operation == "truncate":
            del content[step.offset :]
            content.extend(bytes(step.offset - len(content)))
        else:
            self.write(inode, step.offset, data)

    def write(self, inode: int, offset: int, data: bytes) -> None:
        content = self.inodes[inode]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def change_names(self, changes: dict[str, int | None]) -> None:
        for name, inode in changes.items():
            if inode is None:
                self.names.pop(name, None)
            else:
                self.names[name] = inode

    def name_changes(self, step: Step) -> dict[str, int | None]:
        """What a step does to names; a new file gets its inode."""
        if step.operation == "open" and step.path not in self.names:
            inode = max(self.inodes, default=-1) + 1
            self.inodes[inode] = bytearray()
            return {step.path: inode}
        if step.operation == "rename":
            return {step.data.decode(): self.names[step.path], step.path: None}
        if step.operation == "exchange":
            return {step.data.decode(): self.names[step.path], step.path: self.names[step.data.decode()]}
        return {step.path: None} if step.operation == "unlink" else {}


def killed(before: Disk, steps: list[Step], torn_bytes: int) -> Disk:
    """After SIGKILL: every step happened, the last write only in its first torn_bytes."""
    disk = before.copy()
    for step in steps:
        if step.operation in ("write", "truncate"):
            disk.change_content(disk.names[step.path], step, step.data[:torn_bytes] if step is steps[-1] else step.data)
        else:
            disk.change_names(disk.name_changes(step))
    return disk


def power_cut(before: Disk, steps: list[Step], rng: random.Random) -> Disk:
    """After the power went: what was synced, and a random part of the rest."""
    disk = before.copy()  # what is on the medium
    seen = before.copy()  # what the process sees; only its names are used
    contents: defaultdict[int, list[Step]] = defaultdict(list)
    names: defaultdict[str, list[dict[str, int | None]]] = defaultdict(list)
    for step in steps:
        if step.operation in ("write", "truncate"):
            contents[seen.names[step.path]].append(step)
        elif step.operation == "sync":
            inode = seen.names[step.path]
            for change in contents.pop(inode, []):
                disk.change_content(inode, change, change.data)
        elif step.operation == "sync_directory":
            for changes in names.pop(step.path, []):
                disk.change_names(changes)
        else:
            changes = seen.name_changes(step)
            seen.change_names(changes)
            names[step.directory].append(changes)
            for inode in seen.inodes.keys() - disk.inodes.keys():
                disk.inodes[inode] = bytearray()
    _lose_some(disk, contents, names, rng)
    return disk


def _lose_some(
    disk: Disk,
    contents: dict[int, list[Step]],
    names: dict[str, list[dict[str, int | None]]],
    rng: random.Random,
) -> None:
    """Of what was on its way, each page and each name gets to the medium or not."""
    keep = rng.choice([0.0, 0.5, 0.9, 1.0])
    for inode, steps in contents.items():
        for step in steps:
            if step.operation == "truncate" and rng.random() < keep:
                disk.change_content(inode, step, b"")
            for offset, piece in _pages(step):
                if rng.random() < keep:
                    disk.write(inode, offset, piece)
    for changes in names.values():
        for change in changes:
            if rng.random() < keep:
                disk.change_names(change)


def _pages(step: Step) -> Iterator[tuple[int, bytes]]:
    """A write by the pages that it touches: the unit that reaches the medium or does not."""
    at = 0
    while at < len(step.data):
        end = min(len(step.data), at + PAGE - (step.offset + at) % PAGE)
        yield step.offset + at, step.data[at:end]
        at = end
