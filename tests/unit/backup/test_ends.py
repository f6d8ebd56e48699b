"""Backups that end before their end: the daemon killed or stopped, tapes full, snapshots broken. Each ends cleanly with
its reason, takes no space, and goes on at its last checkpoint to the same tapes."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from appliance.backup.catalogue import Catalogue
from appliance.backup.records import Backups, BackupState
from appliance.library.files import LibraryFiles
from appliance.settings import config_file
from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import Device, write_10
from tests.support.waiting import eventually
from tests.unit.backup.test_job import BARCODE, files_in, fill, first_file, make_ext4, no_space_is_taken

MEBIBYTE = 1 << 20
SEED = int(os.environ.get("TAPEBAY_TEST_SEED", random.randrange(1 << 32)))
SLOW = '[limits]\ncopy_rate = "24 MiB"'
SLOWER = '[limits]\ncopy_rate = "2 MiB"'  # so that a third of a minute is left when the first content is on tape


@pytest.fixture
def make_site(tmp_path):
    made = []

    def make(more: str = SLOW, count: int = 60, length: int = 700_000) -> Appliance:
        library, tree = tmp_path / "library", tmp_path / "tree"
        (library / "disks").mkdir(parents=True)
        files = fill(tree, count, length)
        make_ext4(library / "disks/data.img", tree, 96)
        appliance = Appliance(library, disks=[Disk("data", "96 MiB")], cartridges=4, more=more)
        made.append(appliance)
        appliance.expected = files
        return appliance

    yield make
    for appliance in made:
        if appliance.is_running():
            appliance.stop()


def begin(site: Appliance, *cartridges: str, drive: str | None = None) -> int:
    report = site.call(
        "backup.start", disks=["data"], to=list(cartridges or [BARCODE]), checkpoint="4 MiB", background=True,
        drive=drive,
    )  # fmt: skip
    return report["number"]


def await_bytes(site: Appliance, number: int, count: int) -> dict:
    """Until so much content is on tape, or it has ended."""

    def report() -> dict | None:
        shown = site.call("backup.show", number=number)
        return shown if shown["content_bytes"] >= count or shown["state"] != "running" else None

    return eventually(report)


def without_limit(site: Appliance) -> None:
    """From the next start on."""
    site.config.write_text(site.config.read_text().replace(SLOWER, ""))


def all_files(site: Appliance, report: dict) -> dict[str, bytes]:
    found = {}
    for volume in report["volumes"]:
        found |= files_in(first_file(site, volume["barcode"]))
    return found


@pytest.mark.parametrize("run", range(3))
def test_the_daemon_is_killed_again_and_again(make_site, run):
    site, choose = make_site(), random.Random(SEED + run)
    print(f"TAPEBAY_TEST_SEED={SEED}")
    number = begin(site)
    for _ in range(2):
        await_bytes(site, number, choose.randrange(1, 30 * MEBIBYTE))
        time.sleep(choose.random() / 5)
        site.kill()
        site.start()
        report = site.call("backup.show", number=number)
        if report["state"] == "done":
            break
        assert (report["state"], "the daemon ended" in report["reason"]) == ("interrupted", True)
        assert no_space_is_taken(site)
        site.call("backup.resume", number=number, background=True)
    report = site.call("backup.wait", number=number)
    assert report["state"] == "done", report
    assert files_in(first_file(site)) == site.expected
    assert site.call("verify", number=number)["equal"]


@pytest.mark.parametrize("indexed", [False, True])
def test_killed_when_all_is_written_but_the_index_or_the_last_row(make_site, indexed):
    site = make_site(more="", count=5)
    report = site.call("backup.start", disks=["data"], to=[BARCODE])
    number = report["number"]
    site.stop()
    with LibraryFiles.open(config_file.load(site.folder / "tapebay.toml")) as files:
        records = Backups(files.database)
        records._put(replace(records.get(number), state=BackupState.INTERRUPTED), "made so by the test")
    catalogue = Catalogue.open(site.folder / "state/catalogues" / f"{report['identifier']}.db")
    (volume,) = catalogue.volumes()
    catalogue.put_volume(replace(volume, indexed=indexed))
    catalogue.close()
    site.start()
    report = site.call("backup.resume", number=number)
    assert (report["state"], report["volumes"][0]["indexed"]) == ("done", True)
    assert files_in(first_file(site)) == site.expected


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_whoever_asked_for_it_is_killed_and_it_goes_on(make_site, sent):
    site = make_site(more='[limits]\ncopy_rate = "12 MiB"')
    command = [sys.executable, "-m", "appliance", "backup", "data", "--to", BARCODE, "--config", str(site.config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking:
        assert eventually(lambda: site.call("backup.list"))
        await_bytes(site, 1, MEBIBYTE)
        asking.send_signal(sent)
        asking.wait(60)
    report = site.call("backup.wait", number=1)
    assert report["state"] == "done", report
    assert files_in(first_file(site)) == site.expected
    assert no_space_is_taken(site)


def test_the_daemon_is_stopped_and_it_is_resumed(make_site):
    site = make_site(SLOWER)
    number = begin(site)
    await_bytes(site, number, 1)
    site.stop()
    without_limit(site)
    site.start()
    report = site.call("backup.show", number=number)
    assert (report["state"], report["reason"]) == ("interrupted", "the daemon was stopped while it ran")
    assert site.call("backup.resume", number=number)["state"] == "done"
    assert files_in(first_file(site)) == site.expected


def test_what_changed_meanwhile_is_refused_by_name(make_site):
    site = make_site(SLOWER)
    number = begin(site)
    await_bytes(site, number, 1)
    name = next(file["name"] for file in site.call("catalogue.show", number=number) if file["kind"] == "file")
    site.kill()
    data = site.expected[name]
    at = site.image("data").read_bytes().find(data[:4096])
    with site.image("data").open("r+b") as image:
        image.seek(at + 1000)
        image.write(b"changed")
    without_limit(site)
    site.start()
    report = site.call("backup.resume", number=number)
    assert report["state"] == "failed"
    assert f"{name} has changed since it was written to tape" in report["reason"]
    assert no_space_is_taken(site)


def test_full_tapes_and_more_of_them(make_site):
    site = make_site(more="")
    site.call("cartridge.create", barcode="SML001L6", count=3, capacity="18 MiB")
    report = site.call("backup.start", disks=["data"], to=["SML001L6"])
    assert (report["state"], "the cartridges are full" in report["reason"]) == ("failed", True)
    assert no_space_is_taken(site)
    first = files_in(first_file(site, "SML001L6"))
    assert 0 < len(first) < len(site.expected)
    report = site.call("backup.resume", number=report["number"], to=["SML002L6", "SML003L6"])
    assert report["state"] == "done", report
    assert [volume["barcode"] for volume in report["volumes"]] == ["SML001L6", "SML002L6", "SML003L6"]
    assert all_files(site, report) == site.expected
    assert site.call("verify", number=report["number"])["equal"]
    before = site.call("catalogue.show", number=1)
    assert len({place["cartridge"] for file in before for place in file["places"]}) == 3


def test_a_large_file_that_crosses_checkpoints_does_not_fit(tmp_path):
    """The end of the file before it shares a block on tape with it: it has to be written again where the tape is full,
    though a checkpoint had made it safe."""
    library, tree = tmp_path / "library", tmp_path / "tree"
    (library / "disks").mkdir(parents=True)
    tree.mkdir()
    expected = {"data/a": os.urandom(500_000), "data/b": os.urandom(20 * MEBIBYTE)}
    for name, data in expected.items():
        (tree / name.removeprefix("data/")).write_bytes(data)
    make_ext4(library / "disks/data.img", tree, 64)
    with Appliance(library, disks=[Disk("data", "64 MiB")], cartridges=0) as site:
        site.call("cartridge.create", barcode="SML001L6", capacity="12 MiB")
        site.call("cartridge.create", barcode="LRG001L6", capacity="40 MiB")
        report = site.call("backup.start", disks=["data"], to=["SML001L6", "LRG001L6"], checkpoint="2 MiB")
        assert report["state"] == "done", report
        assert all_files(site, report) == expected
        assert no_space_is_taken(site)


def test_a_cartridge_that_is_write_protected(make_site):
    site = make_site(more="")
    site.call("cartridge.protect", barcode=BARCODE, protected=True)
    report = site.call("backup.start", disks=["data"], to=[BARCODE])
    assert report["state"] == "failed"
    assert report["content_bytes"] == 0
    assert no_space_is_taken(site)


def test_a_broken_snapshot_ends_the_backup_and_never_the_disk(make_site):
    packages.require("libiscsi7")
    site = make_site(more=f'{SLOWER}\n[snapshots]\nbudget = "1 MiB"')
    with InitiatorSession(site.portal, site.target_name) as session:
        disk = Device(session, site.lun("data"))
        number = begin(site)
        await_bytes(site, number, 1)
        for megabyte in range(95, 20, -1):
            disk.good(write_10(megabyte * 2048, 128), os.urandom(65536))
    report = site.call("backup.wait", number=number)
    assert report["state"] == "failed"
    assert "budget" in report["reason"], report["reason"]
    assert no_space_is_taken(site)


def test_writes_meanwhile_do_not_reach_the_tape(make_site):
    packages.require("libiscsi7")
    site = make_site()
    number = begin(site)
    stop = threading.Event()

    def overwrite() -> None:
        with InitiatorSession(site.portal, site.target_name) as session:
            disk, choose = Device(session, site.lun("data")), random.Random(SEED)
            while not stop.is_set():
                disk.good(write_10(choose.randrange(1500) * 128, 16), os.urandom(8192))

    await_bytes(site, number, 1)
    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        report = site.call("backup.wait", number=number)
    finally:
        stop.set()
        writer.join()
    assert report["state"] == "done", report
    assert files_in(first_file(site)) == site.expected
    assert no_space_is_taken(site)


def test_a_disk_that_grows_meanwhile_is_backed_up_as_it_was(make_site):
    site = make_site()
    number = begin(site)
    await_bytes(site, number, 1)
    grown = site.call("disk.grow", name="data", size="128 MiB")
    assert grown["size_bytes"] == 128 * MEBIBYTE
    report = site.call("backup.wait", number=number)
    assert report["state"] == "done", report
    assert files_in(first_file(site)) == site.expected
    assert no_space_is_taken(site)
