"""Files back into the blocks where they are: by the library, and what a server asks of a file before."""

import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.agent import in_place
from appliance.agent.asking import Asking
from appliance.agent.backup import MountedSource
from appliance.agent.block_devices import DeviceRange, Stack
from appliance.agent.file_systems import MountedFileSystem
from appliance.agent.in_place import NotInPlace
from appliance.agent.kernel import MappedExtent
from appliance.agent.restoring import Restoring
from appliance.backup.entries import Entry, FileExtent
from appliance.backup.filesystems.reader import Reader
from appliance.backup.filesystems.sleuth import ExtFileSystem
from appliance.backup.kept_drives import KeptDrives
from appliance.failures import Failure, OperatorError
from tests.support.appliance import FIRST_BARCODE
from tests.support.waiting import SECONDS
from tests.unit.backup.test_increments import Site, site
from tests.unit.backup.test_listed import Image

__all__ = ["site"]

KIBIBYTE = 1 << 10
SECOND_BARCODE = "TST002L6"


def entry_of(site: Site, name: str) -> Entry:
    """Where a file of the served disk lies."""
    with site.appliance.image("data").open("rb") as file:
        image = Image(file)
        image.size_bytes = 24 << 20
        for found in ExtFileSystem(Reader(image)).walk():
            if isinstance(found, Entry) and found.name == name.encode():
                return found
    raise AssertionError(name)


def content_of(site: Site, entry: Entry) -> bytes:
    data = site.appliance.image("data").read_bytes()
    return b"".join(data[extent.disk_offset :][: extent.length] for extent in entry.extents)


def test_a_file_is_written_into_its_own_blocks(site: Site) -> None:
    noise, disk = random.Random(9), site.disk
    for name, length in (("first", 300_001), ("second", 70_000), ("third", 5000)):
        disk.write(name, noise.randbytes(length))
    site.back_up(FIRST_BARCODE)
    kept = disk.tree["first"]
    assert isinstance(kept, bytes)
    for offset in range(0, 300_000, 65_536):
        disk.change_in_place("first", offset, b"another content")
    site.send()
    entry, before = entry_of(site, "first"), site.appliance.image("data").read_bytes()
    assert content_of(site, entry) != kept
    asked: dict[str, Any] = {
        "number": 1, "file": "data/first", "disk": "data", "size": 300_001,
        "extents": [list(extent) for extent in entry.extents],
    }  # fmt: skip
    made = site.appliance.call("restore.extents", **asked)
    assert (made["stored_bytes"], made["modified_ns"]) == (300_001, entry.modified_ns)
    assert content_of(site, entry) == kept
    after = bytearray(site.appliance.image("data").read_bytes())
    for extent in entry.extents:
        run = slice(extent.disk_offset, extent.disk_offset + extent.length)
        after[run] = before[run]
    assert after == before  # nothing else was touched, up to the byte
    for wrong, why in (
        ({"size": 5}, "has 300001 bytes in the backup, and 5 on the disk"),
        ({"disk": "other"}, "there is no disk other"),
        ({"file": "data/none"}, "no plain file data/none"),
        ({"extents": asked["extents"][:-1]}, "has no place on the disk"),
        ({"extents": [[0, 24 << 20, 300_001]]}, "an extent ends at byte"),
        ({"extents": [[0, 100, 300_001]]}, "sector"),
    ):
        with pytest.raises(OperatorError, match=why):
            site.appliance.call("restore.extents", **{**asked, **wrong})
    assert content_of(site, entry) == kept


# ---- what a server asks ----------------------------------------------------------------------------------------------


def located(offset: int, length: int) -> Iterator[tuple[str, int, int]]:
    yield "sda", offset + 1024, length


@pytest.mark.parametrize(
    ("extents", "why"),
    [
        ([(0, 8192, 8192, 0x801)], "reserved and was never written"), ([(0, 8192, 8192, 0x2001)], "shared"),
        ([(0, 8192, 4096, 1)], "a hole"), ([(0, 8192, 8192, 0x81)], "encrypted"), ([(0, 0, 8192, 0x201)], "INLINE"),
    ],
)  # fmt: skip
def test_blocks_that_are_not_the_files_alone(extents: list[tuple[int, int, int, int]], why: str) -> None:
    with pytest.raises(NotInPlace, match=why):
        in_place.blocks_of(0, 8192, located, "sda", lambda _: (MappedExtent(*extent) for extent in extents))
    right = [MappedExtent(0, 4096, 4096, 0), MappedExtent(4096, 65536, 4096, 1)]
    beyond = MappedExtent(8192, 1 << 20, 65536, 0x807)  # reserved for more
    found = in_place.blocks_of(0, 8000, located, "sda", lambda _: iter([*right, beyond]))
    assert found == [FileExtent(0, 5120, 4096), FileExtent(4096, 66560, 3904)]


@pytest.mark.parametrize(
    ("inode", "extended", "why"),
    [
        (0x4000, 0, "data=journal"),
        (0x800, 0, "encrypted"),
        (0, 1, "realtime"),
        (0, 0x8000, "DAX"),
        (16, 0, "immutable"),
    ],
)
def test_flags_that_forbid_it(inode: int, extended: int, why: str) -> None:
    in_place.check_flags(0x80000, 0)  # FS_EXTENT_FL, as every file of ext4 has
    with pytest.raises(NotInPlace, match=why):
        in_place.check_flags(inode, extended)


def test_mounts_and_swap_files_that_forbid_it(tmp_path: Path) -> None:
    for option in ("data=journal", "dax", "dax=always"):
        with pytest.raises(NotInPlace):
            in_place.check_mount(MountedFileSystem(Path("/srv"), "/", (8, 0), "ext4", frozenset({"rw", option})))
    in_place.check_mount(MountedFileSystem(Path("/srv"), "/", (8, 0), "xfs", frozenset({"rw", "dax=never"})))
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/srv/swap file 1024 0 -2\n")
    in_place.check_swap(Path("/srv/other"), swaps)
    with pytest.raises(NotInPlace, match="swapped"):
        in_place.check_swap(Path("/srv/swap"), swaps)


class Catalogue:
    """An appliance that has files of any name in its only backup."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def call(self, verb: str, /, **_parameters: Any) -> Any:
        if verb == "backup.list":
            return [{"number": 1, "state": "done", "disks": ["data"]}]
        assert verb == "catalogue.show"
        places = [{"cartridge": FIRST_BARCODE, "block": 7, "lost": False}]
        return [
            {"name": name, "kind": "file", "size": 5, "backup": 1, "places": places} for name in self._names
        ]  # fmt: skip

    def events(self, _subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        return iter(())


def source_at(point: Path, device: tuple[int, int]) -> MountedSource:
    stack = Stack(("sda",), (DeviceRange(0, 1 << 20, "sda", 0),))
    return MountedSource(MountedFileSystem(point, "/", device, "ext4", frozenset({"rw"})), stack, "sda", "data")


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    """Neither an appliance that is not believed, nor what has become of directories meanwhile, leads to other files."""
    (tmp_path / "other").mkdir()
    root = tmp_path / "srv"
    root.mkdir()
    for path in (root / "plain", tmp_path / "other/file"):
        path.write_bytes(b"12345")
    (root / "link").symlink_to(tmp_path / "other")
    names = ("srv/plain", "srv/link/file", "srv/../other/file")
    status = root.stat()
    here = os.major(status.st_dev), os.minor(status.st_dev)

    def ways(device: tuple[int, int]) -> list[str]:
        api = Asking(Catalogue(*names))
        return [way.why for way in Restoring(api, source_at(root, device), root, ["srv", "web/srv"]).plan(1)]

    plain, link, above = ways(here)
    assert "elsewhere" not in plain and "mounted there" not in plain
    assert link == "a symbolic link on the way to it leads elsewhere now"
    assert above == "its name in the backup is no plain path"
    elsewhere = f"another file system than that of {root} is mounted there now"
    assert ways((here[0], here[1] + 1)) == [elsewhere, elsewhere, above]


def test_what_a_backup_of_several_servers_calls_a_file(tmp_path: Path) -> None:
    root = tmp_path / "srv"
    source = source_at(root, (0, 0))
    restoring = Restoring(Asking(Catalogue("web/srv/plain")), source, root, ["srv", "web/srv"])
    assert restoring.newest() == 1
    assert [way.told()["path"] for way in restoring.plan(1)] == [str(root / "plain")]
    restoring.names = ["srv", "mail/srv"]
    with pytest.raises(OperatorError, match="no backup of disk data has srv or mail/srv; name one of another disk by"):
        restoring.newest()
    with pytest.raises(OperatorError, match="backup 1 has no srv or mail/srv"):
        restoring.plan(1)


def test_a_file_that_somebody_uses(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(NotInPlace, match="not there"), in_place.opened(path):
        pass
    path.write_bytes(os.urandom(100 * KIBIBYTE + 7))
    with in_place.opened(path) as descriptor:
        with in_place.leased(descriptor) as is_alone:
            assert is_alone()
        with path.open("rb"), pytest.raises(NotInPlace, match="has it open or mapped"), in_place.leased(descriptor):
            pass
        in_place.forget_pages(descriptor)
        direct, cached = in_place.checksums_of(descriptor)
        assert direct == cached


# ---- files of one restore --------------------------------------------------------------------------------------------


class Server:
    """A server whose files, in a folder of the test, are what the served disk has to hold after a restore."""

    def __init__(self, site: Site, folder: Path, names: Sequence[str]) -> None:
        self.site, self.folder = site, folder
        self.entries = {name: entry_of(site, name) for name in names}
        for name in names:
            content = site.disk.tree[name]
            assert isinstance(content, bytes)
            (folder / name).write_bytes(content)

    def call(self, verb: str, /, *, timeout_seconds: float = 0, **parameters: Any) -> Any:
        return self.site.appliance.call(verb, **parameters)

    def events(self, _subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        return iter(())

    def mapped(self, descriptor: int) -> Iterator[MappedExtent]:
        entry = self.entries[Path(f"/proc/self/fd/{descriptor}").readlink().name]
        yield from (MappedExtent(extent.file_offset, extent.disk_offset, extent.length, 0) for extent in entry.extents)

    def restoring(self) -> Restoring:
        status = self.folder.stat()
        stack = Stack(("sda",), (DeviceRange(0, 24 << 20, "sda", 0),))
        device = os.major(status.st_dev), os.minor(status.st_dev)
        mount = MountedFileSystem(self.folder, "/", device, "ext4", frozenset({"rw"}))
        source = MountedSource(mount, stack, "sda", "data")
        return Restoring(Asking(self), source, self.folder, ["data"], mapped=self.mapped)


def moves_of(site: Site, barcode: str) -> int:
    """How often a cartridge was moved."""
    return len(site.appliance.call("audit.list", action="cartridge moved", subject=barcode, count=1000))


def test_a_cartridge_is_loaded_once_for_all_files_on_it(site: Site, tmp_path: Path) -> None:
    """Names alternate between two cartridges."""
    noise, disk, names = random.Random(4), site.disk, [f"file{number}" for number in range(6)]
    for name in names:
        disk.write(name, noise.randbytes(150_000))
    site.back_up(FIRST_BARCODE)
    for name in names[::2]:
        disk.change_in_place(name, 70_000, b"since")
    site.back_up(SECOND_BARCODE, incremental=True)
    server = Server(site, tmp_path / "restored", names)
    with site.appliance.image("data").open("r+b") as image:
        for entry in server.entries.values():
            image.seek(entry.extents[0].disk_offset)
            image.write(b"damaged")
    moved, restoring = [moves_of(site, barcode) for barcode in (FIRST_BARCODE, SECOND_BARCODE)], server.restoring()
    ways = restoring.plan(2)
    tapes = [way.told()["cartridge"] for way in ways if not way.why]
    assert tapes == [SECOND_BARCODE, FIRST_BARCODE] * 3
    done = restoring.run(2, ways)
    assert {Path(row["path"]).name for row in done if not row["why"]} == set(names), done
    for name in names:
        assert content_of(site, server.entries[name]) == disk.tree[name]
    assert [moves_of(site, barcode) for barcode in (FIRST_BARCODE, SECOND_BARCODE)] == [2 + times for times in moved]
    (server.folder / "file2").write_bytes(bytes(150_000))  # as if something else had come there
    with pytest.raises(OperatorError, match="file2 is not what it should be now"):
        restoring.run(2, restoring.plan(2))
    assert not any(row["cartridge"] for row in site.appliance.call("drive.list"))


def test_a_kept_cartridge_goes_home(site: Site, tmp_path: Path) -> None:
    """At the end, when a file fails, and not into anybody's way: what an operator has taken is brought again."""
    site.disk.write("first", random.Random(5).randbytes(70_000))
    site.back_up(FIRST_BARCODE)
    entry = entry_of(site, "first")
    asked: dict[str, Any] = {
        "number": 1, "file": "data/first", "disk": "data", "size": 70_000, "run": "0" * 32,
        "extents": [list(extent) for extent in entry.extents],
    }  # fmt: skip

    def restored(**other: Any) -> bool:
        """Whether the cartridge is in a drive afterwards."""
        site.appliance.call("restore.extents", **{**asked, **other})
        return is_loaded()

    def is_loaded() -> bool:
        return any(row["cartridge"] == FIRST_BARCODE for row in site.appliance.call("drive.list"))

    def end() -> bool:
        return bool(site.appliance.call("restore.end", run=asked["run"])["was_kept"])

    assert not restored(run=None)
    assert restored()
    assert end() and not is_loaded() and not end()
    assert restored()
    with pytest.raises(OperatorError, match="has no place on the disk"):
        restored(extents=[[0, entry.extents[0].disk_offset, 4096]])
    assert not is_loaded() and not end()
    assert restored()
    with pytest.raises(OperatorError, match="is in use"):
        site.appliance.call("unload", drive="drive:0")
    site.appliance.call("unload", drive="drive:0", force=True)
    assert restored()
    site.appliance.stop()
    site.appliance.start()
    assert not is_loaded()


def test_an_end_that_the_library_does_not_hear_of_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    restoring = Restoring(Asking(Deaf()), source_at(tmp_path, (0, 0)), tmp_path, [], told.append)
    assert restoring.run(1, []) == []
    assert told == ["the library gives the drive back by itself in a minute: there is no verb restore.end"]


class Deaf:
    """An appliance that refuses whatever it is asked for."""

    def call(self, verb: str, /, **_parameters: Any) -> Any:
        raise OperatorError(Failure.USAGE, f"there is no verb {verb}")

    def events(self, _subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        return iter(())


class Drives:
    """One that is had and given back, as often as it is wanted."""

    def __init__(self) -> None:
        self.had, self.given_back = 0, threading.Semaphore(0)
        self.name = "drive0"

    def still_has(self, _barcode: str) -> bool:
        return True

    @contextmanager
    def drive_for(self, _barcode: str, _name: str | None, _units: Sequence[object]) -> Iterator[Any]:
        self.had += 1
        try:
            yield self
        finally:
            self.given_back.release()


def test_a_drive_of_an_agent_that_has_gone_away_is_given_back() -> None:
    drives = Drives()
    kept = KeptDrives(drives.drive_for, seconds=0.01)
    with kept.drive("run", FIRST_BARCODE, None, []):
        assert not drives.given_back.acquire(blocking=False)
    assert drives.given_back.acquire(timeout=SECONDS)
    assert not kept.end("run")


def test_a_run_that_is_ended_while_its_drive_is_used() -> None:
    """By somebody who does not wait for the last file any more, or twice at once."""
    drives = Drives()
    kept = KeptDrives(drives.drive_for)
    with kept.drive("run", FIRST_BARCODE, None, []):
        assert kept.end("run")
    assert drives.given_back.acquire(blocking=False)
    with kept.drive("run", FIRST_BARCODE, None, []), kept.drive("run", FIRST_BARCODE, None, []):
        pass
    assert drives.given_back.acquire(blocking=False)
    with kept.drive("run", FIRST_BARCODE, None, []):
        pass
    assert drives.had == 3
    with kept.drive("run", FIRST_BARCODE, None, []):
        kept.close()
    assert drives.given_back.acquire(blocking=False) and not kept.end("run")
