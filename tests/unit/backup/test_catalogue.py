"""What is where: catalogues asked, tapes and disks compared with them, and catalogues read back from tape."""

import sqlite3
from contextlib import closing

import pytest

from appliance.backup import index
from appliance.backup.catalogue import ArchivePart, Catalogue, File
from appliance.backup.entries import Kind
from appliance.failures import OperatorError
from datamover.engine import crc32c
from tests.support.appliance import Appliance
from tests.unit.backup.support import run, which
from tests.unit.backup.test_job import BARCODE, site  # noqa: F401 - a fixture


def test_a_catalogue_of_the_version_before_is_read(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        for statement in (
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
            "CREATE TABLE files (number INTEGER PRIMARY KEY, name BLOB NOT NULL, kind BLOB NOT NULL, "
            "size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, "
            "crc32c INTEGER NOT NULL)",
            "INSERT INTO files VALUES (0, CAST('data/a' AS BLOB), CAST('0' AS BLOB), 5, 6, 5, 7)",
            "PRAGMA user_version = 1",
        ):
            old.execute(statement)
        old.commit()
    for _ in range(2):
        with closing(Catalogue.open(path)) as catalogue:
            (kept,) = catalogue.state(b"*", 10)
            assert (kept.file.name, kept.file.crc32c, kept.file.identity, kept.origin) == (b"data/a", 7, None, None)


@pytest.fixture
def backed_up(site: Appliance) -> Appliance:  # noqa: F811
    assert site.call("backup.start", disks=["data"], to=[BARCODE])["state"] == "done"
    return site


def test_files_are_found_by_name_and_folder(backed_up):
    expected = backed_up.expected
    under = {file["name"]: file for file in backed_up.call("catalogue.show", number=1, under="data/d3")}
    assert set(under) == {name for name in expected if name.startswith("data/d3/")} | {"data/d3"}
    (found,) = backed_up.call("catalogue.find", pattern="*/file-0017")
    assert (found["size"], found["crc32c"]) == (len(expected[found["name"]]), f"{crc32c(expected[found['name']]):08x}")
    assert found["places"][0]["cartridge"] == BARCODE
    assert len(backed_up.call("catalogue.find", pattern="*", limit=7)) == 7
    (kept,) = backed_up.call("catalogue.list")
    assert (kept["files"], kept["cartridges"]) == (47, [BARCODE])


def test_the_tape_and_the_disk_are_compared(backed_up):
    for given in ({}, {"disks": True}):
        verified = backed_up.call("verify", number=1, **given)
        assert verified["equal"], verified
        assert verified["content_bytes"] == sum(map(len, backed_up.expected.values()))
        assert verified["files"] == 47


def test_a_block_that_went_bad_on_tape_is_found(backed_up):
    backed_up.stop()
    (segment,) = sorted((backed_up.folder / "cartridges" / BARCODE).glob("**/*.seg*"))[:1]
    with segment.open("r+b") as file:
        file.seek(300_000)
        byte = file.read(1)[0]
        file.seek(300_000)
        file.write(bytes([byte ^ 0x40]))
    backed_up.start()
    verified = backed_up.call("verify", number=1)
    assert not verified["equal"]
    assert any(one["cartridge"] == BARCODE for one in verified["listed"])


def test_a_disk_that_was_changed_since_differs(backed_up):
    image = backed_up.image("data")
    name, data = next(item for item in backed_up.expected.items() if item[0].endswith("file-0021"))
    backed_up.stop()
    at = image.read_bytes().find(data[:4096])
    with image.open("r+b") as file:
        file.seek(at)
        file.write(b"changed")
    backed_up.start()
    verified = backed_up.call("verify", number=1, disks=True)
    assert [one["name"] for one in verified["listed"]] == [name]


def test_a_catalogue_is_read_back_from_the_tape(backed_up):
    before = backed_up.call("catalogue.show", number=1)
    (catalogue,) = (backed_up.folder / "state/catalogues").glob("*.db")
    backed_up.stop()
    catalogue.unlink()
    backed_up.start()
    assert backed_up.call("catalogue.list") == []
    (kept,) = backed_up.call("catalogue.rebuild", cartridges=[BARCODE])
    assert kept["backup"] == 1
    assert backed_up.call("catalogue.show", number=1) == before
    assert backed_up.call("verify", number=1)["equal"]


def test_a_cartridge_without_an_index_is_named(backed_up):
    with pytest.raises(OperatorError, match="TST003L6 has no index"):
        backed_up.call("catalogue.rebuild", cartridges=["TST003L6"])


def test_what_came_and_went_since_is_named(backed_up):
    backed_up.stop()
    run(which("debugfs"), "-w", "-R", "rm d1/file-0001", backed_up.image("data"))
    run(which("debugfs"), "-w", "-R", "symlink d2/new elsewhere", backed_up.image("data"))
    backed_up.start()
    verified = backed_up.call("verify", number=1, disks=True)
    found = {one["name"]: one["what"] for one in verified["listed"]}
    assert found["data/d1/file-0001"] == "it is on tape and not on the disk"
    assert found["data/d2/new"] == "it is on the disk and not on tape"
    assert len(found) == 2


def test_a_backup_is_forgotten_and_its_tape_stays(backed_up):
    assert backed_up.call("backup.delete", number=1)["cartridges"] == [BARCODE]
    assert backed_up.call("backup.list") == backed_up.call("catalogue.list") == []
    with pytest.raises(OperatorError, match="there is no backup 1"):
        backed_up.call("backup.show", number=1)
    assert backed_up.call("catalogue.rebuild", cartridges=[BARCODE])[0]["files"] == 47


def test_whoever_holds_the_snapshot_is_asked_while_an_index_is_made(tmp_path):
    """That of a million files takes a minute: without it, the lease of the snapshot would end."""
    catalogue = Catalogue.create(tmp_path / "a.db", {"identifier": "0" * 32})
    files = [File(n, b"%d" % n, Kind.FIFO, 0, 0, 0, 0) for n in range(5000)]
    catalogue.put_read_back((file, [ArchivePart(file.number, 1, 1, 0, 0, 0, 0)]) for file in files)
    asked = []
    whole = b"".join(index.pieces(catalogue, lambda: asked.append(1)))
    assert len(asked) == 5
    assert b"".join(index.pieces(catalogue)) == whole
    catalogue.close()
