"""The hostile initiator in a whole library, made from a worked configuration as `tapebay serve` makes it: two
platforms, two partitions. What Unix is told of its library stays the same, and Windows is told nothing of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.library.cartridges import medium_of
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.operations.free_places import places_in_partitions
from appliance.settings import config_file
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest
from scsi_targets.iscsi.task_management import TaskManager
from scsi_targets.t10 import smc, ssc
from tests.property.access.site import MEMORY, Holder, Step, encode_lun, send, told
from tests.property.access.test_hostile_commands import TRICKS
from tests.property.access.test_non_interference import LOG_PAGES, VPD_PAGES
from tests.support.scsi import inquiry

FILE = Path(__file__).parents[3] / "docs" / "sharing" / "two-platforms.toml"
SECRET = b"what only Unix may know"
CHANGER, DRIVE = 0, 1
# Everything that can be asked without a change.
QUESTIONS: list[bytes] = [
    inquiry(),
    *(bytes([0x12, 1, page, 4, 0, 0]) for page in VPD_PAGES),
    bytes([0x5A, 0, 0x3F, 0xFF, 0, 0, 0, 4, 0, 0]),
    *(bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 8, 0, 0]) for page in LOG_PAGES),
    *(bytes([0x5E, action, 0, 0, 0, 0, 0, 4, 0, 0]) for action in range(4)),
    smc.ReadElementStatus.encode(volume_tag=1, number_of_elements=0xFFFF, allocation_length=0xFFFF),
    smc.ReadElementStatus.encode(device_identifier=1, number_of_elements=0xFFFF, allocation_length=0xFFFF),
    bytes([0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0]),
    bytes([0x8C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]),
    bytes(6),
]


class Server:
    """One server of the picture, logged in."""

    def __init__(self, library: Library, account: str) -> None:
        target = library.settings.targets[0].iqn
        name = f"iqn.1993-08.org.debian:{account}"
        self.view = library.directory.open(Who(name, bytes(6), target, Portal("127.0.0.1", 3260), "192.0.2.7", account))
        self.nexus = Nexus(name, bytes(6), target, principal=self.view.principal)
        self.view.nexus_established(self.nexus)
        for unit in self.view.units():
            while unit.take_unit_attention(self.nexus):
                pass

    def ask(self, lun: int, cdb: bytes, data: bytes | None = None) -> tuple[int, bytes, bytes]:
        return told(send(self.view, self.nexus, lun, cdb, data))

    def everything(self) -> list[tuple[int, bytes, bytes]]:
        return [self.ask(lun, cdb) for lun in (CHANGER, DRIVE) for cdb in QUESTIONS]


class Platforms:
    """The library with a cartridge for each platform; that of Unix is loaded and holds the secret."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tapebay.toml"
        path.write_text(FILE.read_text())
        for account in config_file.load(path).chap.accounts:
            assert account.secret_file is not None
            secret = folder / account.secret_file
            secret.write_text(f"secret of {account.user}\n")
            secret.chmod(0o600)
        self.library = Library.build(LibraryFiles.create(config_file.load(path)))
        for barcode in ("U00001L6", "W00001L6"):
            self.library.files.cartridges.create_all({barcode: medium_of(barcode, None, False)}, None)
            (address,) = places_in_partitions(self.library.files, [barcode], None)
            assert list(self.library.robot.add_all([(barcode, address)])) == [1]
        self.unix, self.windows = Server(self.library, "unix-1"), Server(self.library, "windows-1")
        for lun, cdb, data in (
            (CHANGER, smc.MoveMedium.encode(source_element_address=4096, destination_element_address=256), None),
            (DRIVE, bytes(6), None),
            (DRIVE, ssc.Write6.encode(transfer_length=len(SECRET)), SECRET),
            (DRIVE, ssc.WriteFilemarks6.encode(filemark_count=1), None),
            (CHANGER, bytes([0x16, 0, 0, 0, 0, 0]), None),
            (DRIVE, bytes([0x16, 0, 0, 0, 0, 0]), None),
        ):
            self.unix.ask(lun, cdb, data)
        self.before = self.unix.everything()
        units = self.library.units
        self.hidden = [b"U00001L6", SECRET, self.unix.nexus.initiator_name.encode()]
        self.hidden += [units[name].identity.serial_number.encode() for name in ("unix", "unix-drive")]
        self.hidden += [units[name].identity.naa for name in ("unix", "unix-drive")]

    def perform(self, step: Step) -> Any:
        lun, what = step
        if not isinstance(what, TaskFunction):
            return self.windows.ask(lun, *what)  # type: ignore[misc]
        holders = [Holder(server.view) for server in (self.windows, self.unix)]
        request = TaskManagementRequest.make(function=what, lun=encode_lun(lun))
        return TaskManager(holders[0], self.windows.nexus, lambda: holders).perform(request)


@pytest.fixture(scope="module")
def platforms() -> Iterator[Platforms]:
    with tempfile.TemporaryDirectory(prefix="sharing.", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        platforms = Platforms(Path(folder))
        yield platforms
        platforms.library.close()


def test_unix_has_its_secret_and_is_told_the_same_twice(platforms: Platforms) -> None:
    assert platforms.unix.everything() == platforms.before
    assert sum(status == 0 for status, _, _ in platforms.before) > 30
    assert any(b"U00001L6" in data for _, _, data in platforms.before)
    loaded = platforms.library.drives["unix-drive"].cartridge
    assert loaded is not None and loaded.barcode == "U00001L6"


@pytest.mark.timeout(400)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from([0, 1, 0, 1, 2, 3, 5, 300]), TRICKS), min_size=1, max_size=30))
def test_windows_does_what_it_wants(platforms: Platforms, tricks: Sequence[Step]) -> None:
    answers = [platforms.perform(step) for step in tricks]
    assert platforms.unix.everything() == platforms.before
    said = b"\n".join(part for answer in answers if isinstance(answer, tuple) for part in answer[1:])
    assert [secret for secret in platforms.hidden if secret in said] == []
