"""A hot backup without a kernel: the agent's steps against a daemon; its file system is read from the disk's image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from appliance.agent.asking import Asking
from appliance.agent.backup import AgentJob, HotBackup, MountedSource
from appliance.agent.block_devices import DeviceRange, Stack
from appliance.agent.file_systems import MountedFileSystem
from appliance.agent.freeze import FreezeFailed
from appliance.agent.server import ThisServer
from appliance.agent.snapshot_walk import Order
from appliance.backup.entries import Entry, FileExtent, Kind, Skipped
from appliance.backup.filesystems.reader import Reader
from appliance.backup.filesystems.sleuth import ExtFileSystem
from appliance.backup.listing import digest_of, to_line
from appliance.backup.records import Backups, BackupState, BackupStateError
from appliance.failures import Failure, NoAnswer, OperatorError
from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.database import new_database
from tests.support.scsi import Device, write_10
from tests.unit.backup.test_job import (
    BARCODE,
    MEBIBYTE,
    files_in,
    fill,
    first_file,
    make_ext4,
    no_space_is_taken,
    site,
)

__all__ = ["site"]

SOURCE = MountedSource(
    MountedFileSystem(Path("/srv"), "/", (8, 0), "ext4", frozenset({"rw"})),
    Stack(("sda",), (DeviceRange(0, 64 * MEBIBYTE, "sda", 0),)),
    "sda", "data",
)  # fmt: skip


class Image:
    """What Reader asks of an image, of a plain file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 64 * MEBIBYTE

    def read_into(self, buffer: Any, offset: int) -> None:
        self._file.seek(offset)
        self._file.readinto(buffer)  # type: ignore[attr-defined]


def listed(path: Path, prefix: bytes) -> Iterator[Entry | Skipped]:
    with path.open("rb") as file:
        for found in ExtFileSystem(Reader(Image(file))).walk():
            name = prefix if found.name == b"." else prefix + b"/" + found.name
            if isinstance(found, Skipped):
                yield found._replace(name=name)
            else:
                found.name = name
                yield found


class Machine(ThisServer):
    """The server: its file system is held, or not; it sees the snapshot's device and walks it."""

    def __init__(self, site: Appliance, source: MountedSource = SOURCE, name: str = "server") -> None:
        self.site, self.source, self.name = site, source, name
        self.holds = 0
        self.fails = 0  # so many holds do not last
        self.calls: list[str] = []
        self.answers_lost: set[str] = set()  # once each
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.while_paused: Callable[[], object] = lambda: None

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.while_paused()

    def call(self, verb: str, **parameters: Any) -> Any:
        self.calls.append(verb)
        answer = self.site.call(verb, **parameters)
        if verb in self.answers_lost:
            self.answers_lost.remove(verb)
            raise NoAnswer(Failure.REFUSED, f"the answer to {verb} was lost")
        return answer

    def events(self, _subject: str, *, timeout_seconds: float) -> Iterator[object]:
        return iter(())

    def sync(self, points: Sequence[Path]) -> None:
        assert points == [Path("/srv")]

    @contextmanager
    def held(self, paths: Sequence[Path], *, limit_seconds: float) -> Iterator[None]:
        assert paths == [Path("/srv")]
        self.holds += 1
        yield
        if self.holds <= self.fails:
            raise FreezeFailed("somebody else let /srv go before the snapshot was made")

    @contextmanager
    def mounted(self, device: list[str]) -> Iterator[Any]:
        yield SimpleNamespace(devices={name: f"/dev/{name}" for name in device})

    def lines(self, order: Order) -> Iterator[str]:
        assert (order.file_system, order.prefix) == ("ext4", "srv")
        return map(to_line, listed(self.site.image(self.source.in_library), order.prefix.encode()))

    @property
    def hot(self) -> HotBackup:
        return HotBackup(Asking(self, pause=self.pause), self, self.said.append, self, self.name)  # type: ignore[arg-type]

    def run(self, job: AgentJob | None = None, **wanted: Any) -> Any:
        return self.hot.run(job or AgentJob([Path("/srv")]), [self.source], **{"to": [BARCODE], **wanted})

    def expected(self) -> dict[str, bytes]:
        return {f"srv/{name.removeprefix('data/')}": data for name, data in self.site.expected.items()}  # type: ignore[attr-defined]


@pytest.fixture
def machine(site: Appliance) -> Machine:
    return Machine(site)


def test_what_the_agent_lists_is_what_is_on_tape(machine: Machine) -> None:
    report = machine.run()
    assert report["state"] == "done", report
    assert files_in(first_file(machine.site)) == machine.expected()
    assert report["parts"] == [{"prefix": "", "kind": "files, as its server listed them"}]
    assert no_space_is_taken(machine.site)
    assert [row["state"] for row in machine.call("snapshot.list")] == ["released"]
    (part,) = report["servers"]
    assert (part["disks"], part["payload_bytes"], part["network_bytes"]) == (["data"], 0, 0)  # by a Unix socket
    assert part["processor_seconds"] > 0
    assert part["content_bytes"] == report["content_bytes"]
    seconds = part["processor_seconds_per_gibibyte"] * part["content_bytes"] / (1 << 30)
    assert seconds == pytest.approx(part["processor_seconds"], rel=0.01)
    assert report["processor_seconds_per_gibibyte"] > 0
    assert machine.call("backup.show", number=report["number"])["servers"] == report["servers"]


def test_content_of_small_files_in_a_list_is_counted_as_such(machine: Machine) -> None:
    line = to_line(Entry(b"srv/small", Kind.FILE, size=5, content=b"hello"))
    machine.lines = lambda _order: iter([line])  # type: ignore[method-assign]
    report = machine.run()
    assert report["servers"][0]["payload_bytes"] == 5
    assert files_in(first_file(machine.site)) == {"srv/small": b"hello"}


def test_every_answer_is_lost_once(machine: Machine) -> None:
    machine.answers_lost = {
        "snapshot.create", "snapshot.take", "filelist.add", "filelist.end", "backup.start", "backup.wait",
    }  # fmt: skip
    assert machine.run()["state"] == "done"
    assert not machine.answers_lost
    assert len(machine.site.call("backup.list")) == 1
    assert [row["state"] for row in machine.site.call("snapshot.list")] == ["released"]


def test_one_backup_writes_a_snapshot(tmp_path: Path) -> None:
    """A second one would give it back under the first."""
    backups = Backups(new_database(tmp_path))
    first = backups.add("1" * 32, ("data",), (BARCODE,), snapshot="abc")
    with pytest.raises(BackupStateError, match=f"backup {first.number} writes snapshot abc already"):
        backups.add("2" * 32, ("data",), (BARCODE,), snapshot="abc")
    backups.step(first.number, BackupState.FAILED, reason="the drive does not answer")
    backups.add("3" * 32, ("data",), (BARCODE,), snapshot="abc")
    with pytest.raises(BackupStateError, match="writes snapshot abc already"):
        backups.step(first.number, BackupState.RUNNING)


def test_an_increment_has_what_has_changed_since(machine: Machine) -> None:
    machine.run()
    report = machine.run(AgentJob([Path("/srv")], exclude=["*.tmp"]), to=["TST002L6"], incremental=True)
    assert (report["since"], report["full_because"]) == (None, "there is no backup of the same files that is done")
    report = machine.run(to=[BARCODE, "TST003L6"], incremental=True)  # on the first that is blank
    assert (report["since"], report["full_because"], report["content_bytes"]) == (1, "", 0)
    assert files_in(first_file(machine.site, "TST003L6")) == {}
    assert files_in(first_file(machine.site)) == machine.expected()


def test_an_image_of_a_disk_that_is_held_still(machine: Machine) -> None:
    image = machine.site.image("data")
    report = machine.run(AgentJob([Path("/srv")], image=True))
    assert (report["state"], machine.holds, "filelist.add" in machine.calls) == ("done", 1, False), report
    assert files_in(first_file(machine.site)) == {"data.img": image.read_bytes()}
    machine.site.call("restore", number=report["number"], to_disk="again")
    assert machine.site.image("again").read_bytes() == image.read_bytes()
    report = machine.run(AgentJob([Path("/srv")], image=True), to=["TST002L6"], incremental=True)
    assert (report["since"], report["content_bytes"]) == (1, 0)
    assert no_space_is_taken(machine.site)


def test_a_hold_that_did_not_last_is_made_again(machine: Machine) -> None:
    machine.fails = 1
    assert machine.run()["state"] == "done"
    assert machine.calls.count("snapshot.take") == 2
    assert "once more" in machine.said[0]
    assert no_space_is_taken(machine.site)


def test_a_file_system_that_never_is_held_is_no_backup(machine: Machine) -> None:
    machine.fails = 99
    with pytest.raises(FreezeFailed):
        machine.run()
    assert "backup.start" not in machine.calls
    assert no_space_is_taken(machine.site)


def test_a_hook_that_fails_stops_it_and_the_other_is_run(machine: Machine, tmp_path: Path) -> None:
    job = AgentJob([Path("/srv")], before=[["false"]], after=[["touch", str(tmp_path / "after")]])
    with pytest.raises(OperatorError, match="before hook false failed with 1"):
        machine.run(job)
    assert machine.holds == 0
    assert (tmp_path / "after").exists()


def test_lists_that_are_torn_changed_or_of_something_else(machine: Machine) -> None:
    snapshot = machine.call("snapshot.create", disks="data", agent=True)["snapshot"]
    lines = [
        to_line(Entry(b"a", Kind.FILE, size=512, extents=[FileExtent(0, 4096, 512)])),
        to_line(Entry(b"b", Kind.FIFO)),
    ]
    common = {"snapshot": snapshot, "disk": "data"}
    digest = digest_of(lines, f"{snapshot} data", b"")

    def refused(verb: str, why: str, **parameters: Any) -> None:
        with pytest.raises(OperatorError, match=why):
            machine.call(verb, **{**common, **parameters})

    refused("filelist.add", "there is no snapshot", snapshot="0" * 16, part=1, lines=lines)
    refused("filelist.add", "has no disk", disk="other", part=1, lines=lines)
    refused("filelist.add", "no description of a file", part=1, lines=["{"])
    refused("filelist.add", "not a plain path", part=1, lines=[to_line(Entry(b"../a", Kind.FIFO))])
    refused("filelist.end", "the list is torn: 0 of 2", count=2, digest=digest)
    assert machine.call("filelist.add", **common, part=1, lines=lines[:1])["files"] == 1
    assert machine.call("filelist.add", **common, part=1, lines=lines[:1])["files"] == 1  # sent again
    refused("filelist.add", "part 3 is not the next one, 2", part=3, lines=lines)
    with pytest.raises(OperatorError, match="is not whole yet"):
        machine.call("backup.start", snapshot=snapshot, disks=["data"], to=[BARCODE])
    machine.call("filelist.add", **common, part=2, lines=lines[1:])
    refused("filelist.end", "the list is torn: 2 of 1", count=1, digest=digest)
    refused("filelist.end", "digest is another", count=2, digest="\u00e9" * 64)
    assert machine.call("filelist.end", **common, count=2, digest=digest) == {"parts": 2, "files": 2, "whole": True}
    refused("filelist.add", "part 3 is not the next", part=3, lines=lines)
    machine.call("snapshot.release", snapshot=snapshot)
    with pytest.raises(OperatorError, match="is released"):
        machine.call("backup.start", snapshot=snapshot, disks=["data"], to=[BARCODE])


# ---- one that fails, while its agent holds the snapshot --------------------------------------------------------------


def test_it_is_resumed_when_a_drive_is_free(machine: Machine) -> None:
    for number, barcode in enumerate(("TST003L6", "TST004L6")):
        machine.site.load(barcode, f"drive:{number}")
    machine.while_paused = lambda: machine.call("unload", drive="drive:1")
    report = machine.run()
    assert report["state"] == "done", report
    assert len(machine.pauses) == 1
    assert "all drives are in use" in next(said for said in machine.said if "has failed" in said)
    assert files_in(first_file(machine.site)) == machine.expected()
    assert no_space_is_taken(machine.site)


def test_one_that_cannot_be_mended_ends_when_patience_does_and_gives_its_space_back(machine: Machine) -> None:
    for number, barcode in enumerate(("TST003L6", "TST004L6")):
        machine.site.load(barcode, f"drive:{number}")
    report = machine.run(AgentJob([Path("/srv")], patience_seconds=0))
    assert (report["state"], machine.pauses) == ("failed", [])
    assert no_space_is_taken(machine.site)
    assert [row["state"] for row in machine.call("snapshot.list")] == ["released"]


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Machine]:
    """More on the disk than a small cartridge holds."""
    library, tree = tmp_path / "library", tmp_path / "tree"
    (library / "disks").mkdir(parents=True)
    files = fill(tree, 60, 500_000)
    make_ext4(library / "disks/data.img", tree, 64)
    with Appliance(library, disks=[Disk("data", "64 MiB")], cartridges=2) as site:
        site.expected = files  # type: ignore[attr-defined]
        site.call("cartridge.create", barcode="SML001L6", capacity="18 MiB")
        yield Machine(site)


def test_an_operator_brings_another_cartridge_and_the_tapes_have_the_instant(large: Machine) -> None:
    """Between failure and resume all of the disk is written over: the snapshot is the same, and has what was."""
    packages.require("libiscsi7")
    site = large.site

    def bring() -> None:
        with InitiatorSession(site.portal, site.target_name) as session:
            disk = Device(session, site.lun("data"))
            for block in range(0, 64 * MEBIBYTE // 512, 128):
                disk.good(write_10(block, 128), bytes(65536))
        (running,) = [row["number"] for row in site.call("backup.list")]
        site.call("backup.resume", number=running, to=[BARCODE], background=True)

    large.while_paused = bring
    report = large.run(to=["SML001L6"], checkpoint="4 MiB")
    assert report["state"] == "done", report
    assert [volume["barcode"] for volume in report["volumes"]] == ["SML001L6", BARCODE]
    found = {}
    for volume in report["volumes"]:
        found |= files_in(first_file(site, volume["barcode"]))
    assert found == large.expected()
    assert "is running, and so it cannot become running" in large.said[-1] or "is done" in large.said[-1]
    assert no_space_is_taken(site)
