"""A served disk whose ext4 changes as by a host: debugfs edits a copy, and what differs is written by iSCSI."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from datamover.initiator import InitiatorSession
from tests.support.appliance import Appliance
from tests.support.scsi import Device, write_10
from tests.unit.backup.support import run, which

BLOCK = 4096
SLICE = 64 << 10


class ChangingDisk:
    """tree: what is on it, by paths: bytes of a file, None for a directory, a str for where a symbolic link leads.
    links: of a path, the other one that is the same file."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.image = folder / "copy.img"
        self.tree: dict[str, bytes | str | None] = {}
        self.links: dict[str, str] = {}
        self._script: list[str] = []
        self._contents = folder / "contents"
        self._contents.mkdir()
        with self.image.open("wb") as image:
            image.truncate(mebibytes << 20)
        run(which("mke2fs"), "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-O", "^has_journal", self.image)
        self._served = b""

    @classmethod
    def made(cls, folder: Path, served: Path, mebibytes: int = 24) -> Self:
        """With a library's image that is the same."""
        disk = cls(folder, mebibytes)
        disk._served = disk.image.read_bytes()
        served.write_bytes(disk._served)
        return disk

    # ---- what a host does ------------------------------------------------------------------------------------------

    def write(self, path: str, content: bytes) -> None:
        """A new file, or another in place of one."""
        if path in self.tree:
            self.remove(path)
        source = self._contents / str(len(list(self._contents.iterdir())))
        source.write_bytes(content)
        directory, _, name = path.rpartition("/")
        self._script += [f"cd /{directory}", f"write {source} {name}", "cd /"]
        self.tree[path] = content

    def make_directory(self, path: str) -> None:
        self._script.append(f"mkdir /{path}")
        self.tree[path] = None

    def symbolic_link(self, path: str, leads_to: str) -> None:
        self._script.append(f"symlink /{path} {leads_to}")
        self.tree[path] = leads_to

    def hard_link(self, path: str, other: str) -> None:
        self._script += [f"ln /{other} /{path}", f"sif /{path} links_count 2"]
        self.tree[path] = self.tree[other]
        self.links[path], self.links[other] = other, path

    def remove(self, path: str) -> None:
        """What may be a directory that is empty."""
        content = self.tree.pop(path)
        other = self.links.pop(path, None)
        if other is not None:
            self._script += [f"unlink /{path}", f"sif /{other} links_count 1"]
            del self.links[other]
        else:
            self._script.append(f"{'rmdir' if content is None else 'rm'} /{path}")

    def rename(self, path: str, to: str) -> None:
        """A file, or a directory and all below it."""
        self._script += [f"ln /{path} /{to}", f"unlink /{path}"]
        for old in [name for name in self.tree if name == path or name.startswith(f"{path}/")]:
            new = to + old[len(path) :]
            self.tree[new] = self.tree.pop(old)
            if old in self.links:
                other = self.links.pop(old)
                self.links[new], self.links[other] = other, new

    def touch(self, path: str, seconds: int) -> None:
        self._script.append(f"sif /{path} mtime @{seconds}")

    def change_in_place(self, path: str, offset: int, data: bytes) -> None:
        """Bytes of a file, and nothing that is known of it: no time either."""
        content = self.tree[path]
        assert isinstance(content, bytes)
        assert offset // BLOCK == (offset + len(data) - 1) // BLOCK
        self._edit()
        block = int(run(which("debugfs"), "-R", f"bmap /{path} {offset // BLOCK}", self.image).split()[0])
        with self.image.open("r+b") as image:
            image.seek(block * BLOCK + offset % BLOCK)
            image.write(data)
        for name in [path, *([self.links[path]] if path in self.links else [])]:
            self.tree[name] = content[:offset] + data + content[offset + len(data) :]

    def _edit(self) -> None:
        if self._script:
            script = self._contents.with_name("script")
            script.write_text("\n".join(self._script) + "\n")
            said = run(which("debugfs"), "-w", "-f", script, self.image)
            assert "not found" not in said and "Could not" not in said, said
            self._script.clear()
        for left in self._contents.iterdir():
            left.unlink()

    # ---- to the library --------------------------------------------------------------------------------------------

    def send(self, device: Device) -> int:
        """What differs from what is served, and how many blocks that were."""
        self._edit()
        now, count = self.image.read_bytes(), 0
        for at in self._different(now):
            result = device.command(write_10(at // 512, BLOCK // 512), now[at : at + BLOCK])
            assert result.status == 0, result
            count += 1
        self._served = now
        return count

    def _different(self, now: bytes) -> Iterator[int]:
        for start in range(0, len(now), SLICE):
            if now[start : start + SLICE] != self._served[start : start + SLICE]:
                for at in range(start, min(start + SLICE, len(now)), BLOCK):
                    if now[at : at + BLOCK] != self._served[at : at + BLOCK]:
                        yield at

    # ---- what it is ------------------------------------------------------------------------------------------------

    def check_restored(self, folder: Path) -> None:
        """A directory is what is on the disk; lost+found aside."""
        found: dict[str, bytes | str | None] = {}
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                found[name] = None if path.is_dir() else path.read_bytes()
        assert found.pop("lost+found", None) is None
        assert sorted(found) == sorted(self.tree)
        assert [name for name in found if found[name] != self.tree[name]] == []
        for path, other in self.links.items():
            assert (folder / path).samefile(folder / other)

    def change_at_random(self, choose: random.Random) -> None:
        """A few steps of any kind."""
        for _ in range(choose.randrange(1, 9)):
            choose.choice(_STEPS)(self, choose)


@contextmanager
def logged_in(site: Appliance, disk: str) -> Iterator[Device]:
    with InitiatorSession(site.portal, site.target_name) as session:
        yield Device(session, site.lun(disk))


# ---- random steps --------------------------------------------------------------------------------------------------


def _directories(disk: ChangingDisk) -> list[str]:
    return ["", *(f"{name}/" for name, content in disk.tree.items() if content is None)]


def _files(disk: ChangingDisk) -> list[str]:
    return [name for name, content in disk.tree.items() if isinstance(content, bytes)]


def _new_name(disk: ChangingDisk, choose: random.Random) -> str:
    name = f"{choose.choice(_directories(disk))}n{choose.randrange(30)}"
    return name if name not in disk.tree else f"{name}-{choose.randrange(1 << 30)}"


def _write(disk: ChangingDisk, choose: random.Random) -> None:
    if sum(len(content or "") for content in disk.tree.values()) < 8 << 20:
        disk.write(_new_name(disk, choose), choose.randbytes(choose.choice([0, 1, 100, 5000, 70_000, 300_000])))


def _replace(disk: ChangingDisk, choose: random.Random) -> None:
    if files := _files(disk):
        path = choose.choice(files)
        disk.write(path, choose.randbytes(choose.choice([10, 9000, len(disk.tree[path] or b"")])))


def _change_in_place(disk: ChangingDisk, choose: random.Random) -> None:
    if files := [name for name in _files(disk) if len(disk.tree[name] or b"") > BLOCK]:
        path = choose.choice(files)
        offset = choose.randrange(len(disk.tree[path] or b"") // BLOCK) * BLOCK + choose.randrange(BLOCK - 20)
        disk.change_in_place(path, offset, choose.randbytes(20))


def _remove(disk: ChangingDisk, choose: random.Random) -> None:
    full = {name.rpartition("/")[0] for name in disk.tree}
    if gone := [name for name in disk.tree if name not in full]:
        disk.remove(choose.choice(gone))


def _rename(disk: ChangingDisk, choose: random.Random) -> None:
    if disk.tree:
        path, to = choose.choice(list(disk.tree)), _new_name(disk, choose)
        if not to.startswith(f"{path}/"):
            disk.rename(path, to)


def _make_directory(disk: ChangingDisk, choose: random.Random) -> None:
    if len(_directories(disk)) < 12:
        disk.make_directory(_new_name(disk, choose))


def _link(disk: ChangingDisk, choose: random.Random) -> None:
    if single := [name for name in _files(disk) if name not in disk.links]:
        disk.hard_link(_new_name(disk, choose), choose.choice(single))


def _symbolic_link(disk: ChangingDisk, choose: random.Random) -> None:
    disk.symbolic_link(_new_name(disk, choose), f"elsewhere/{choose.randrange(1000)}")


def _touch(disk: ChangingDisk, choose: random.Random) -> None:
    if files := _files(disk):
        disk.touch(choose.choice(files), choose.randrange(1 << 30))


_STEPS = (
    _write, _write, _replace, _change_in_place, _change_in_place, _remove, _remove, _rename, _make_directory, _link,
    _symbolic_link, _touch,
)  # fmt: skip
