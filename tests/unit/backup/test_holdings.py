"""Cartridges that hold backups: another one is written over them only when it is insisted on, and then the library
knows what is lost, the increments that rest on it included."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.backup.records import Backup, BackupState
from appliance.failures import OperatorError
from tests.unit.backup.support import archive_of
from tests.unit.backup.test_faults import FIRST, SECOND, Site
from tests.unit.backup.test_job import files_in
from vlib_images.cartridge.cartridge import Cartridge

THIRD, FOURTH = "A00003L6", "A00004L6"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "library", files=6, length=9_000)
    yield made
    made.library.stop()
    made.library.close()


def state_of(site: Site, backup: Backup) -> tuple[BackupState, str]:
    record = site.library.backups.records.get(backup.number)
    return record.state, record.reason


def is_lost(site: Site, backup: Backup, writer: Backup, barcode: str) -> bool:
    return state_of(site, backup) == (
        BackupState.LOST,
        f"backup {writer.number} was written over cartridge {barcode}",
    )


def on_cartridge(site: Site, barcode: str) -> dict[str, bytes]:
    with Cartridge.open(site.directory / "cartridges" / barcode, read_only=True) as cartridge:
        return files_in(archive_of(cartridge, site.directory / f"{barcode}.tar"))


def test_what_another_backup_was_written_over_is_lost(site: Site) -> None:
    first = site.backup(FIRST)
    refused = site.backup(FIRST)
    assert (refused.state, f"holds something else (backup {first.number})" in refused.reason) == (
        BackupState.FAILED, True,
    )  # fmt: skip
    second = site.backup(FIRST, overwrite=True)
    assert second.state is BackupState.DONE, second.reason
    assert is_lost(site, first, second, FIRST)
    assert on_cartridge(site, FIRST) == site.expected
    name = sorted(site.expected)[0]
    found = {row["backup"]: row["places"][0] for row in site.do("catalogue.find", pattern=name)}
    assert {number: (place["cartridge"], place["lost"]) for number, place in found.items()} == {
        first.number: (FIRST, True), second.number: (FIRST, False),
    }  # fmt: skip
    verified = site.do("verify", number=first.number)
    assert [(row["cartridge"], row["what"]) for row in verified["listed"] if not row["name"]] == [
        (FIRST, "another backup was written over it")
    ]
    assert site.do("verify", number=second.number)["equal"]
    with pytest.raises(OperatorError, match=f"was on cartridge {FIRST}, which another backup was written over"):
        site.do("restore", number=first.number, file=name, to_disk="again")
    with pytest.raises(OperatorError, match="is lost, and so it cannot become running"):
        site.do("backup.resume", number=first.number)
    with pytest.raises(OperatorError, match="is not done"):
        site.do("backup.start", disks=["data"], to=[SECOND], since=first.number)


def test_what_is_on_other_cartridges_can_still_be_read(make_small: Callable[[], Site]) -> None:
    site = make_small()
    first = site.backup(FIRST, SECOND)
    assert [volume.barcode for volume in site.volumes(first)] == [FIRST, SECOND]
    second = site.backup(FIRST, THIRD, overwrite=True)
    assert is_lost(site, first, second, FIRST)
    assert [volume.lost for volume in site.volumes(first)] == [True, False]
    verified = site.do("verify", number=first.number)
    assert (verified["differences"], verified["listed"][0]["cartridge"]) == (1, FIRST)
    assert verified["files"] > 0


@pytest.fixture
def make_small(tmp_path: Path) -> Iterator[Callable[[], Site]]:
    """A site whose files are on two cartridges."""
    made: list[Site] = []

    def make() -> Site:
        made.append(Site(tmp_path / "small", files=40, length=700_000))
        for barcode in (FIRST, SECOND, THIRD):
            made[0].do("cartridge.delete", barcode=barcode)
            made[0].do("cartridge.create", barcode=barcode, capacity="20 MiB")
        return made[0]

    yield make
    for site in made:
        site.library.stop()
        site.library.close()


def test_increments_that_rest_on_it_are_lost_too(site: Site) -> None:
    full = site.backup(FIRST)
    chain = [site.backup(SECOND, incremental=True), site.backup(THIRD, incremental=True)]
    assert [backup.since for backup in chain] == [full.number, chain[0].number]
    writer = site.backup(FIRST, overwrite=True)
    assert all(is_lost(site, backup, writer, FIRST) for backup in (full, *chain))
    assert [volume.lost for backup in chain for volume in site.volumes(backup)] == [False, False]
    assert site.backup(FOURTH, incremental=True).since == writer.number


def test_an_increment_does_not_go_over_what_it_rests_on(site: Site) -> None:
    full = site.backup(FIRST)
    second = site.backup(SECOND, incremental=True)
    for barcode, needed in ((FIRST, full), (SECOND, second)):
        with pytest.raises(OperatorError, match=f"holds backup {needed.number}, which this increment rests on"):
            site.begin(barcode, incremental=True, overwrite=True)
    cancelled = replace(site.backup(THIRD, incremental=True), state=BackupState.CANCELLED)
    site.library.backups.records._put(cancelled, "made so by the test")
    with pytest.raises(OperatorError, match=f"holds backup {full.number}, which this increment rests on"):
        site.do("backup.resume", number=cancelled.number, to=[FIRST], overwrite=True)
    assert state_of(site, full) == (BackupState.DONE, "")
    assert on_cartridge(site, FIRST) == site.expected


@pytest.mark.parametrize("which", ["itself", "what rests on it"])
def test_nothing_is_taken_from_one_that_runs(site: Site, which: str) -> None:
    full = site.backup(FIRST)
    running = full if which == "itself" else site.backup(SECOND, incremental=True)
    records = site.library.backups.records
    records._put(replace(running, state=BackupState.RUNNING), "made so by the test")
    refused = site.backup(FIRST, overwrite=True)
    assert refused.state is BackupState.FAILED
    assert refused.reason.startswith(f"cartridge {FIRST} is needed: backup {running.number} runs")
    assert records.get(full.number).state is not BackupState.LOST
    assert on_cartridge(site, FIRST) == site.expected
    records._put(running, "made so by the test")


def test_a_cartridge_that_was_made_anew_holds_nothing_of_the_one_before(site: Site) -> None:
    first = site.backup(FIRST)
    site.do("cartridge.delete", barcode=FIRST)
    site.do("cartridge.create", barcode=FIRST)
    second = site.backup(FIRST)
    assert (second.state, second.reason) == (BackupState.DONE, "")
    assert is_lost(site, first, second, FIRST)


def test_nothing_rests_on_a_cartridge_that_is_gone(site: Site) -> None:
    full = site.backup(FIRST)
    site.do("cartridge.delete", barcode=FIRST)
    gone = f"cartridge {FIRST} of backup {full.number} is no longer in the library"
    with pytest.raises(OperatorError, match=gone):
        site.begin(SECOND, since=full.number)
    whole = site.backup(SECOND, incremental=True)
    assert (whole.state, whole.since, whole.full_because) == (BackupState.DONE, None, gone)


def test_a_lost_one_can_be_forgotten_and_a_catalogue_that_is_gone_stops_nothing(site: Site) -> None:
    first = site.backup(FIRST)
    site.library.backups.path_of(first).unlink()
    second: Any = site.backup(FIRST, overwrite=True)
    assert second.state is BackupState.DONE
    assert is_lost(site, first, second, FIRST)
    site.do("backup.delete", number=first.number)
    assert [row["number"] for row in site.do("backup.list")] == [second.number]


def test_the_blank_ones_of_several_are_taken(site: Site) -> None:
    first = site.backup(FIRST)
    second = site.backup(FIRST, SECOND)
    assert (second.state, [volume.barcode for volume in site.volumes(second)]) == (BackupState.DONE, [SECOND])
    assert state_of(site, first) == (BackupState.DONE, "")
    refused = site.backup(FIRST, SECOND)
    assert f"cartridge {SECOND} holds something else (backup {second.number})" in refused.reason
    assert site.resume(refused, THIRD).state is BackupState.DONE
    assert [volume.barcode for volume in site.volumes(refused)] == [THIRD]
    assert on_cartridge(site, THIRD) == on_cartridge(site, FIRST) == site.expected
