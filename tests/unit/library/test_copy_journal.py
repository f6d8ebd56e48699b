"""The file that tells the next start which copies were running."""

from pathlib import Path

import pytest

from appliance.library import copy_journal
from appliance.library.copy_journal import FILE_NAME, CopyJournal
from scsi_targets.devices.copying.records import CopyRecord
from scsi_targets.devices.unit.task import TASK_ABORTED, Nexus

NEXUS = Nexus("iqn.2026-01.test:host", bytes(6), "iqn.2026-01.test:target")


def interrupted(directory: Path) -> list[tuple[str, int | None]]:
    """(device, list identifier) of what the next start is told."""
    journal = CopyJournal(directory)
    journal.close()
    assert all(record.status == TASK_ABORTED for _, record in journal.interrupted)
    return [(device, record.list_identifier) for device, record in journal.interrupted]


def test_copies_that_run_at_the_end_are_told_of_and_those_that_ended_are_not(tmp_path: Path) -> None:
    journal = CopyJournal(tmp_path)
    records = [CopyRecord(NEXUS, identifier) for identifier in range(3)]
    for record in records:
        journal.of("drive:0").began(record)
    journal.of("drive:0").ended(records[1])
    journal.close()
    assert interrupted(tmp_path) == [("drive:0", 0), ("drive:0", 2)]
    assert interrupted(tmp_path) == []


def test_the_end_of_a_copy_gives_no_space_back(tmp_path: Path) -> None:
    """It would wait for the disk behind what the copy has written (seen: 0.04 to 0.33 s after 4 GiB)."""
    journal, lengths = CopyJournal(tmp_path), [0]
    for identifier in range(20):
        record = CopyRecord(NEXUS, identifier)
        for tell in (journal.of("drive:0").began, journal.of("drive:0").ended):
            tell(record)
            lengths.append((tmp_path / FILE_NAME).stat().st_size)
    journal.close()
    assert lengths == sorted(lengths)
    assert interrupted(tmp_path) == []


def test_however_many_copies_end_the_file_is_bounded_and_knows_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_journal, "MOST_BYTES", 2000)
    journal = CopyJournal(tmp_path)
    long = CopyRecord(NEXUS, 255)
    journal.of("disk:a").began(long)
    for identifier in range(100):
        record = CopyRecord(NEXUS, identifier)
        journal.of("drive:0").began(record)
        journal.of("drive:0").ended(record)
        assert (tmp_path / FILE_NAME).stat().st_size <= 2000 + 500
    journal.close()
    assert interrupted(tmp_path) == [("disk:a", 255)]
