"""tapebay copy: every pair of ends, in a library that is served in this process; what fails, and stopping it."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance.copying import copier, ends
from appliance.copying.ends import End, EndKind, TapePosition, Where, parse_end
from appliance.copying.lists import BlockSide, ByteRun, StreamSide, command_lists
from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import Cancelled, OnLibrary
from appliance.settings import config_file
from datamover.engine import crc32c
from scsi_targets.devices.copying.records import CopyRecord
from tests.support.waiting import eventually
from tests.unit.appliance.offline import offline
from tests.unit.devices.copying.support import blocks_of, content
from tests.unit.devices.support import ALPHA, send
from vlib_images.disk.raw import DiskImage
from vlib_images.library.database import events

SIZE = 1 << 20
WHOLE = content(SIZE, seed=4)


class Site:
    """Disks `one` (with content) and `two` of 1 MiB, two drives, A00001L6 and A00002L6 in slots."""

    def __init__(self, path: Path) -> None:
        self.library = Library.open(config_file.load(path), apply=True)
        self.reports: list[tuple[int, int]] = []
        self.context = OnLibrary(
            self.library.settings, path, self.library.files, self.library, progress=lambda *done: self.report(*done)
        )
        self.disks = self.library.disks()
        self.disks["one"].medium.write(WHOLE, 0)

    def report(self, done: int, total: int) -> None:
        self.reports.append((done, total))

    def do(self, verb_name: str, /, **given: Any) -> Any:
        verb = find(verb_name)
        return perform(verb, self.context, parameters_of(verb, given))

    def copy(self, source: object, destination: object, **more: Any) -> Any:
        return self.do("copy", source=str(source), destination=str(destination), **more)

    def refused(self, source: object, destination: object, **more: Any) -> str:
        with pytest.raises(OperatorError) as caught:
            self.copy(source, destination, **more)
        return str(caught.value)

    def events(self, action: str) -> list[str]:
        with self.library.files.database.read() as connection:
            return [event.subject for event in events.latest(connection, 50) if event.action == action]

    def image(self, name: str) -> bytes:
        data = bytearray(SIZE)
        self.disks[name].medium.read_into(data, 0)
        return bytes(data)

    def tape(self, number: int = 0) -> list[bytes | None]:
        return blocks_of(self.library.drives[f"drive{number}"].loaded)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "lib"
    disks = [("one", "1 MiB"), ("two", "1 MiB")]
    path = setup.create(folder, setup.plan(folder, portal="127.0.0.1:0", drives=2, disks=disks))
    offline(path, "cartridge.create", barcode="A00001L6", count=2)
    site = Site(path)
    try:
        yield site
    finally:
        site.library.close()


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_a_disk_to_a_tape_and_back(site: Site) -> None:
    site.do("load", cartridge="A00001L6", drive="drive0")
    copied = site.copy("disk:one", "drive:drive0", block_length=100_000)
    assert (copied["bytes_copied"], copied["crc32c"]) == (SIZE, f"{crc32c(WHOLE):08x}")
    blocks = [WHOLE[at : at + 100_000] for at in range(0, SIZE, 100_000)]
    assert site.tape() == [*blocks, None]  # the last block is short, and nothing is padded
    back = site.copy("drive:0@start", "disk:two")
    assert back["crc32c"] == copied["crc32c"]
    assert site.image("two") == WHOLE
    assert site.reports[-1] == (SIZE, SIZE)


def test_extents_of_a_disk_go_where_extents_of_another_are(site: Site) -> None:
    copied = site.copy("disk:one@8+16,100+1", "disk:two@0+1,40+16")
    data = WHOLE[8 * 512 : 24 * 512] + WHOLE[100 * 512 : 101 * 512]
    image = site.image("two")
    assert image[:512] + image[40 * 512 : 56 * 512] == data
    assert copied["crc32c"] == f"{crc32c(data):08x}"
    assert not any(image[512 : 40 * 512])


def test_files_to_and_from_disks_and_tapes(site: Site, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(WHOLE[:70_001])
    site.copy(given, "disk:two@1+200")
    assert site.image("two")[512 : 512 + 70_001] == WHOLE[:70_001]
    site.copy(given, "cartridge:A00001L6", block_length=65536)
    got = tmp_path / "got"
    got.write_bytes(bytes(200_000))  # is emptied
    site.copy("cartridge:A00001L6", got)
    assert got.read_bytes() == WHOLE[:70_001]
    site.copy("disk:one@0+3", f"file:{got}")
    assert got.read_bytes() == WHOLE[: 3 * 512]
    site.copy(given, got)
    assert got.read_bytes() == WHOLE[:70_001]
    assert site.do("cartridge.show", barcode="A00001L6")["place"] == "slot:1"  # it is back where it was


def test_a_cartridge_is_appended_to_and_a_file_of_it_taken_to_another(site: Site) -> None:
    for start in (0, 512):
        site.copy(f"disk:one@{start}+512", "cartridge:A00001L6", block_length=65536)  # at its end
    site.do("load", cartridge="A00001L6", drive="drive1")
    halves = [[WHOLE[at : at + 65536] for at in range(half, half + 262144, 65536)] for half in (0, 262144)]
    assert site.tape(1) == [*halves[0], None, *halves[1], None]
    site.do("load", cartridge="A00002L6", drive="drive0")
    site.copy("cartridge:A00001L6@file=1", "drive:drive0", filemarks=2)
    assert site.tape(0) == [*halves[1], None, None]
    site.copy("drive:drive1@block=2", "disk:two")
    assert site.image("two")[:131072] == b"".join(halves[0][2:])


def test_a_cartridge_stays_in_its_partition(site: Site) -> None:
    """It is read in a drive of its own partition, and goes back there."""
    site.do("partition.create", name="a", slots="1", drives="drive1")
    site.do("partition.create", name="b", slots="2-20", drives="drive0")
    site.copy("disk:one", "cartridge:A00001L6")
    assert site.events("cartridge moved between partitions") == []
    assert site.do("cartridge.show", barcode="A00001L6")["place"] == "slot:1"
    site.do("partition.change", name="a", drives="")
    assert "no drive is free for cartridge A00001L6" in site.refused("cartridge:A00001L6@start", "disk:two")


def test_nothing_is_copied_of_nothing(site: Site, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    site.do("load", cartridge="A00001L6", drive="drive0")
    assert site.copy(empty, "drive:drive0")["bytes_copied"] == 0
    assert site.tape() == [None]
    assert site.copy("drive:drive0@start", tmp_path / "made")["bytes_copied"] == 0
    assert (tmp_path / "made").read_bytes() == b""


def test_as_many_commands_as_it_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copier, "SEGMENTS", 3)
    site.do("load", cartridge="A00001L6", drive="drive0")
    extents = ",".join(f"{lba}+3" for lba in range(0, 300, 5))
    copied = site.copy(f"disk:one@{extents}", "drive:drive0", block_length=4096)
    data = b"".join(WHOLE[lba * 512 : (lba + 3) * 512] for lba in range(0, 300, 5))
    assert b"".join(block for block in site.tape() if block) == data
    assert copied["commands"] > 5
    assert copied["crc32c"] == f"{crc32c(data):08x}"


# ---- what is refused, and what fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("disk:three", "disk:two", "there is no disk three"),
        ("drive:7", "disk:two", "there is no drive 7; there are drive0, drive1"),
        ("disk:one@2047+2", "disk:two", "ends after the disk, which has 2048 blocks"),
        ("disk:one", "disk:two@0+2047", "has room for 1048064 bytes, and disk:one has 1048576"),
        ("remote:array", "disk:two", "there is no remote unit array"),
        (
            "iscsi://192.0.2.1/iqn.2026-11.test:x/0",
            "disk:two",
            "was not added; first: tapebay remote add NAME iscsi://",
        ),
        ("drive:drive0", "disk:two", "drive:drive0: medium not present (2/3A/00); first: tapebay load"),
        ("disk:one", "drive:drive0", "drive:drive0: medium not present (2/3A/00); first: tapebay load"),
        ("cartridge:A00001L6", "disk:two", "cartridge:A00001L6: the tape ends here"),
        (
            "disk:one",
            "cartridge:A00001L6@file=3",
            "cartridge:A00001L6@file=3: end of data detected (8/00/05); the tape",
        ),
        ("cartridge:A00001L6@block=3", "disk:two", "cartridge:A00001L6@block=3: end of data detected (8/00/05)"),
    ],
)
def test_ends_that_are_not_there(site: Site, source: str, destination: str, words: str) -> None:
    assert words in site.refused(source, destination)
    assert not any(site.image("two"))


@pytest.mark.parametrize(
    "text",
    [
        "one",
        "disk:",
        "disk:one@5",
        "disk:one@5+0",
        "disk:one@1+1,",
        "drive:x@middle",
        "drive:x@file=-1",
        "iscsi://",
        "iscsi:///iqn.x/1",
        "iscsi://h:99999/iqn.x/1",
        "iscsi://h/iqn.x/lun",
    ],
)
def test_ends_that_are_not_understood(site: Site, text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        site.copy(text, "disk:two")
    assert caught.value.failure is Failure.USAGE


def test_how_ends_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_end("./a@1+2") == End(EndKind.FILE, str(tmp_path / "a@1+2"))
    assert parse_end("iscsi://h:1/iqn.x/3@5+6").extents() == [ends.BlockExtent(5, 6)]
    assert parse_end("drive:d@file=2").position() == TapePosition(Where.FILE, 2)
    assert str(parse_end("cartridge:A@end")) == "cartridge:A@end"


def test_a_file_is_not_copied_to_itself(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"stays")
    (tmp_path / "link").symlink_to("file")
    assert "to itself" in site.refused(tmp_path / "file", tmp_path / "link")
    assert (tmp_path / "file").read_bytes() == b"stays"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tapebay.toml", "is the library's own"),
        ("state/tapebay.db", "is the library's own"),
        ("state/lock", "is the library's own"),
        ("cartridges/A00001L6/mam.json", "is the library's own"),
        ("disks/one.img", "is the image of disk one; to write to that: disk:one"),
        ("linked", "is the image of disk one"),
        ("hard", "is the image of disk one"),
        ("database", "is the library's own"),
        ("settings", "is the library's own"),
        ("attributes", "is the library's own"),
    ],
)
def test_what_the_library_keeps_is_not_written_over(site: Site, name: str, words: str) -> None:
    """With the daemon's rights, which reach all of it."""
    folder = site.library.settings.directory
    image = site.library.settings.image_of(site.library.settings.disks[0])
    (folder / "linked").symlink_to(image)
    (folder / "hard").hardlink_to(image)
    (folder / "database").hardlink_to(folder / "state/tapebay.db")
    (folder / "settings").hardlink_to(folder / "tapebay.toml")
    (folder / "attributes").hardlink_to(folder / "cartridges/A00001L6/mam.json")
    before = (folder / name).read_bytes()
    assert words in site.refused("disk:two", folder / name)
    assert (folder / name).read_bytes() == before
    assert site.image("one") == WHOLE


@pytest.mark.parametrize("name", ["state/tapebay.db", "database"])
def test_the_database_is_not_read_behind_its_own_back(site: Site, name: str) -> None:
    """Whoever closes a file of SQLite's drops the locks by which the process holds it (POSIX fcntl)."""
    folder, database = site.library.settings.directory, site.library.files.database.path
    (folder / "database").hardlink_to(database)

    def locks() -> list[str]:
        lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
        return [kind for _, kind, *_, file, _, _ in lines if file.endswith(f":{database.stat().st_ino}")]

    with site.library.files.database.read() as connection:
        events.latest(connection, 1)
        assert "POSIX" in (before := locks())
        assert "is the library's own" in site.refused(folder / name, "disk:two")
        with pytest.raises(OperatorError, match="is the library's own"):
            site.do("cartridge.import", barcode="A00009L6", file=str(folder / name), format="simh")
        assert locks() == before


def test_an_image_that_somebody_else_serves_is_not_written_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"stays")
    with closing(DiskImage.open(tmp_path / "image")):
        assert "is in use, as a disk's image" in site.refused("disk:two", tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == b"stays"


def test_a_copy_of_what_the_library_keeps_is_anybody_s(site: Site, tmp_path: Path) -> None:
    """With other links of its own, too: it is another file."""
    kept = tmp_path / "kept.db"
    shutil.copy(site.library.files.database.path, kept)
    (tmp_path / "link").hardlink_to(kept)
    site.copy("disk:one", tmp_path / "link")
    assert kept.read_bytes() == WHOLE


def test_a_pipe_is_no_file(site: Site, tmp_path: Path) -> None:
    """Opening one waits for whoever has its other end."""
    os.mkfifo(tmp_path / "pipe")
    found: list[str] = []
    asking = threading.Thread(
        target=lambda: found.extend(
            [site.refused(tmp_path / "pipe", "disk:two"), site.refused("disk:one", tmp_path / "pipe")]
        ),
        daemon=True,
    )
    asking.start()
    asking.join(60)
    assert found == [f"{tmp_path / 'pipe'} is no regular file"] * 2


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("disk:one@0+1000", "disk:one@500+1000"),
        ("disk:one@500+1000", "disk:one@0+1000"),
        ("disk:one", "disk:one"),
        ("disk:one@0+8,1000+8", "disk:one@500+8,1007+8"),
        ("disk:one@0+8", "disk:one"),
    ],
)
def test_what_may_be_written_over_before_it_is_read_is_not_copied(site: Site, source: str, destination: str) -> None:
    assert "overlap: blocks may be written over" in site.refused(source, destination)
    assert site.image("one") == WHOLE


def test_a_disk_is_copied_to_another_place_of_its_own(site: Site) -> None:
    site.copy("disk:one@0+8,16+8", "disk:one@8+8,24+8")
    site.copy("disk:one@100+8", "disk:one")
    expected = bytearray(WHOLE)
    expected[8 * 512 : 16 * 512], expected[24 * 512 : 32 * 512] = WHOLE[: 8 * 512], WHOLE[16 * 512 : 24 * 512]
    expected[: 8 * 512] = WHOLE[100 * 512 : 108 * 512]
    assert site.image("one") == expected


def test_a_reservation_keeps_an_operator_out(site: Site) -> None:
    drive = site.library.drives["drive0"]
    site.do("load", cartridge="A00001L6", drive="drive0")
    drive.nexus_established(ALPHA)
    drive.take_unit_attention(ALPHA)
    assert send(drive, bytes([0x16, 0, 0, 0, 0, 0])).status == 0
    assert "reserved by somebody else" in site.refused("disk:one", "drive:drive0")
    assert drive.loaded.end_of_data(0) == 0


def test_the_failed_segment_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = site.disks["one"].medium
    read_into = medium.read_into

    def bad(buffer: Any, offset: int) -> None:
        if offset + len(memoryview(buffer)) > 524288:
            raise OSError(5, "Input/output error")
        read_into(buffer, offset)

    monkeypatch.setattr(medium, "read_into", bad)
    site.do("load", cartridge="A00001L6", drive="drive0")
    message = site.refused("disk:one@0+512,512+512,1024+16", "drive:drive0", block_length=65536)
    assert "failed after 524288 bytes, in segment 2 of command 1 (bytes 524288 to 532480)" in message
    assert "the source says: unrecovered read error (3/11/00" in message
    assert b"".join(block for block in site.tape() if block) == WHOLE[:524288]


def test_a_file_that_ends_in_mid_copy_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(WHOLE)
    site.do("load", cartridge="A00001L6", drive="drive0")
    drive = site.library.drives["drive0"]
    write_blocks = drive.write_blocks

    def vanishing(*args: Any, **more: Any) -> Any:
        os.truncate(tmp_path / "file", 0)
        return write_blocks(*args, **more)

    monkeypatch.setattr(drive, "write_blocks", vanishing)
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)
    message = site.refused(tmp_path / "file", "drive:drive0", block_length=65536)
    assert re.search(
        rf"the source says: unrecovered read error \(3/11/00\): {tmp_path}/file ends at byte \d+$", message
    )
    (copied,) = [one for one in site.do("copies.list") if one["failed_segment"] is not None]
    written = b"".join(block for block in site.tape() if block)
    assert copied["bytes_written"] == len(written)
    results = site.do("copies.show", number=copied["number"])["results"]
    assert [one["crc32c"] for one in results] == [copied["crc32c"]]


def test_early_warning_says_what_goes_to_the_next_cartridge(site: Site, tmp_path: Path) -> None:
    """As the document has it."""
    site.do("disk.create", name="big", size="40 MiB")
    site.do("cartridge.create", barcode="S00001L6", capacity="32 MiB")
    data = content(40 << 20, seed=9)
    (tmp_path / "big").write_bytes(data)
    site.copy(tmp_path / "big", "disk:big")
    message = site.refused("disk:big@0+20480,20480+61440", "cartridge:S00001L6")
    found = re.search(r"failed after (\d+) bytes.* early warning .*; what is left is (disk:big@([\d+,]+))$", message)
    assert found is not None, message
    done, left = int(found[1]), found[2]
    assert (done % (256 << 10), left) == (0, f"disk:big@{done // 512}+{81920 - done // 512}")
    site.copy(left, "cartridge:A00001L6")
    site.do("disk.create", name="back", size="40 MiB")
    site.copy("cartridge:S00001L6", f"disk:back@0+{done // 512}")
    site.copy("cartridge:A00001L6", left.replace("big", "back"))
    site.copy("disk:back", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data


def test_a_copy_is_stopped_at_a_block(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    drive = site.library.drives["drive0"]
    site.do("load", cartridge="A00001L6", drive="drive0")
    write_blocks, standing = drive.write_blocks, threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        standing.set()
        stopped.wait(60)
        return write_blocks(*args, **more)

    stopped = threading.Event()

    def report(done: int, total: int) -> None:
        if standing.is_set():
            raise Cancelled

    cancel = CopyRecord.cancel

    def cancelled(record: CopyRecord) -> None:
        cancel(record)
        stopped.set()

    monkeypatch.setattr(CopyRecord, "cancel", cancelled)
    monkeypatch.setattr(drive, "write_blocks", slow)
    monkeypatch.setattr(site, "report", report)
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)
    monkeypatch.setattr("scsi_targets.client.copy_manager.WATCH_SECONDS", 0.01)
    with pytest.raises(Cancelled):
        site.copy("disk:one", "drive:drive0", block_length=4096)
    written = b"".join(block for block in site.tape() if block)
    assert written == WHOLE[: len(written)]
    assert 0 < len(written) < SIZE
    copies = site.do("copies.list")
    assert (copies[-1]["state"], copies[-1]["reason"]) == ("failed", "it was stopped")
    assert drive.reservations.held_by() is None


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_commands_end_on_whole_blocks() -> None:
    runs = tuple(ByteRun(at, 700) for at in range(0, 70_000, 1000))
    made = list(command_lists(BlockSide(runs, 512), StreamSide(4096), 49_000, most_segments=4, most_bytes=1 << 30))
    assert [piece.start for one in made for piece in one.pieces][:3] == [0, 700, 1400]
    assert sum(piece.length for one in made for piece in one.pieces) == 49_000
    assert all(one.end % 4096 == 0 for one in made[:-1])
    assert len(made) > 3


# ---- how fast --------------------------------------------------------------------------------------------------------


def test_rates_are_of_the_settings_the_command_and_the_operator(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamover.copy_job.CHUNK_BYTES", 65536)
    site.copy("disk:one@0+2", "disk:two", rate="1 GiB")
    assert site.do("copies.list")[-1]["bytes_per_second"] == 1 << 30
    ended = threading.Event()

    def slow_one() -> None:
        site.copy("disk:one", "disk:two", rate=1)
        ended.set()

    copying = threading.Thread(target=slow_one)
    copying.start()
    eventually(lambda: len(copies := site.do("copies.list")) == 2 and copies[-1]["state"] == "copying")
    copies = site.do("copies.list")
    with pytest.raises(OperatorError, match="not a size"):
        site.do("copies.limit", number=copies[-1]["number"], rate="fast")
    assert site.do("copies.limit", number=copies[-1]["number"], rate="0")["bytes_per_second"] == 0
    copying.join(60)
    assert ended.is_set()
    assert site.image("two") == WHOLE


def test_the_operator_stops_a_copy(site: Site) -> None:
    failures: list[OperatorError] = []

    def slow_one() -> None:
        try:
            site.copy("disk:one", "disk:two", rate=1)
        except OperatorError as error:
            failures.append(error)

    copying = threading.Thread(target=slow_one)
    copying.start()
    eventually(lambda: (copies := site.do("copies.list")) and copies[-1]["state"] == "copying")
    copies = site.do("copies.list")
    site.do("copies.stop", number=copies[-1]["number"])
    copying.join(60)
    assert "the copy of disk:one to disk:two failed after" in str(failures[0])
