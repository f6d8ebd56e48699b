"""Very many files, from a list that is ready: what a backup takes for each does not grow with their number.

TAPEBAY_TEST_FILES says how many: 20,000, or a million where there is time. `python -m tests.bench.many_files` measures.
"""

import os
import sqlite3
from typing import Any

import pytest

from tests.support import many_files
from tests.support.appliance import FIRST_BARCODE, Appliance, Disk
from tests.support.many_files import back_up, name_of, peak_memory_bytes, send
from tests.unit.backup.support import listed_by_gnu
from tests.unit.backup.test_job import first_file

FILES = int(os.environ.get("TAPEBAY_TEST_FILES", "20000"))
FEW = 2000
# Of what is not durable yet, and of pages that the allocator keeps; a job that keeps all files has a kibibyte for each.
MOST_BYTES_A_FILE = 4096
CHECKPOINT_FILES = 50_000


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(the daemon, the report, by how many bytes its memory grew from the backup of a few to that of many)."""
    size = f"{-(-many_files.disk_bytes(FILES) // (1 << 20))} MiB"
    with Appliance(tmp_path_factory.mktemp("many"), disks=[Disk(many_files.DISK, size)], cartridges=1) as site:
        back_up(site, send(site, FEW), FIRST_BARCODE)
        before = peak_memory_bytes(site.process_id)
        snapshot = send(site, FILES)
        report = back_up(site, snapshot, FIRST_BARCODE)
        yield site, report, peak_memory_bytes(site.process_id) - before


@pytest.mark.timeout(600 + FILES // 100)
def test_all_of_them_are_on_tape_for_gnu_tar(backed_up: Any) -> None:
    site, report, _ = backed_up
    assert (report["files"], report["content_bytes"]) == (FILES, FILES * many_files.FILE_BYTES)
    listed = listed_by_gnu(first_file(site))
    assert len(listed) == FILES
    assert {listed[0], listed[-1]} == {name_of(0).decode(), name_of(FILES - 1).decode()}


def test_memory_is_bounded_by_what_is_not_durable(backed_up: Any) -> None:
    assert backed_up[2] < MOST_BYTES_A_FILE * min(FILES, CHECKPOINT_FILES)


def test_nothing_is_left_of_what_it_needed_meanwhile(backed_up: Any) -> None:
    site = backed_up[0]
    left = [path.name for path in (site.folder / "state" / "catalogues").iterdir()]
    assert [name for name in left if not name.endswith(".db")] == []


def test_files_are_found_by_an_index(backed_up: Any) -> None:
    site, report, _ = backed_up
    number = report["number"]
    (found,) = site.call("catalogue.show", number=number, under=name_of(FILES - 1).decode())
    assert found["size"] == many_files.FILE_BYTES
    folder = site.call("catalogue.show", number=number, under="srv/data/0001")
    assert len(folder) == 1000
    newest = max((site.folder / "state" / "catalogues").glob("*.db"), key=lambda path: path.stat().st_mtime)
    with sqlite3.connect(f"file:{newest}?mode=ro", uri=True) as catalogue:
        for query in ("name = x'00'", "name >= x'00' AND name < x'01'"):
            plan = " ".join(
                row[3] for row in catalogue.execute(f"EXPLAIN QUERY PLAN SELECT * FROM files WHERE {query}")
            )
            assert "USING INDEX files_by_name" in plan


@pytest.mark.timeout(600 + FILES // 100)
def test_they_are_verified_and_read_back(backed_up: Any) -> None:
    site, report, _ = backed_up
    verified = site.call("verify", number=report["number"], timeout_seconds=3600)
    assert (verified["files"], verified["equal"]) == (FILES, True)
    (kept,) = [
        row
        for row in site.call("catalogue.rebuild", cartridges=[FIRST_BARCODE], timeout_seconds=3600)
        if row["backup"] == report["number"]
    ]
    assert kept["files"] == FILES
