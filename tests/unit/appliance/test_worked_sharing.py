"""The worked configurations of docs/sharing, each loaded, built and tried: what every server sees, how they keep out of
each other's way, and that docs/sharing.md explains each file and its picture says what the file does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from appliance.access.directory import Directory
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.library.reservations import break_reservations
from appliance.settings import config_file
from appliance.settings.advice import advice_on
from appliance.settings.settings import Settings
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Forbidden, Portal, Who
from tests.support.sharing_pictures import picture
from tests.unit.devices.changer.support import move, status
from tests.unit.devices.support import data_of, send, sense_of

DOCS = Path(__file__).resolve().parents[3] / "docs"
DEBIAN = "iqn.1993-08.org.debian:"
CASES = [
    ("three-servers", "server-a", {0: "changer", 1: "drive0", 4: "disk-a"}),
    ("three-servers", "server-b", {0: "changer", 2: "drive1", 5: "disk-b"}),
    ("three-servers", "server-c", {0: "changer", 3: "drive2", 6: "disk-c"}),
    ("reserved-device", f"{DEBIAN}first", {0: "changer", 1: "drive0", 2: "disk-one"}),
    ("reserved-device", f"{DEBIAN}second", {0: "changer", 1: "drive0", 3: "disk-two"}),
    ("three-libraries", "server-a", {0: "a", 1: "drive0"}),
    ("three-libraries", "server-b", {0: "b", 1: "drive1"}),
    ("three-libraries", "server-c", {0: "c", 1: "drive2"}),
    ("two-platforms", "unix-1", {0: "unix", 1: "unix-drive"}),
    ("two-platforms", "unix-2", {0: "unix", 1: "unix-drive"}),
    ("two-platforms", "windows-1", {0: "windows", 1: "windows-drive"}),
    ("two-platforms", "windows-2", {0: "windows", 1: "windows-drive"}),
    ("data-mover", "server-a", {2: "disk-a"}),
    ("data-mover", "server-b", {3: "disk-b"}),
    ("data-mover", "mover", {0: "changer", 1: "drive0", 2: "disk-a", 3: "disk-b"}),
]
NAMES = sorted({case[0] for case in CASES})
GOOD, CONFLICT = 0x00, 0x18
READY, RESERVE, RELEASE = bytes(6), bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])
REWIND, LOCATE = bytes([0x01, 0, 0, 0, 0, 0]), bytes([0x5A, 8, 0x1D, 0, 0, 0, 0, 1, 0, 0])


def load(name: str) -> Settings:
    return config_file.load(DOCS / "sharing" / f"{name}.toml")


def directory(name: str) -> Directory:
    return Directory(load(name), {})


def who(settings: Settings, principal: str, address: str = "192.0.2.7") -> Who:
    by_name = principal.startswith("iqn.")
    initiator = principal if by_name else f"{DEBIAN}{principal}"
    account = None if by_name else principal
    return Who(initiator, bytes(6), settings.targets[0].iqn, Portal("127.0.0.1", 3260), address, account)


class Server:
    """One of the servers of a figure, logged in."""

    def __init__(self, library: Library, principal: str) -> None:
        self.who = who(library.settings, principal)
        self.view: View = library.directory.open(self.who)
        assert self.who.target_name is not None
        self.nexus = Nexus(self.who.initiator_name, bytes(6), self.who.target_name, principal=self.view.principal)
        self.view.nexus_established(self.nexus)
        for unit in self.view.units():
            self.send(unit, READY)

    def send(self, unit: Device | int, cdb: bytes) -> int:
        """The status of a command."""
        device = self.view.logical_units[unit] if isinstance(unit, int) else unit
        return send(device, cdb, nexus=self.nexus).status

    def ask(self, lun: int, cdb: bytes) -> bytes:
        return data_of(send(self.view.logical_units[lun], cdb, nexus=self.nexus))

    def sense(self, lun: int, cdb: bytes) -> tuple[int, int, int]:
        return sense_of(send(self.view.logical_units[lun], cdb, nexus=self.nexus))

    def everything(self, lun: int = 0) -> list[bytes]:
        """All that it can ask its media changer for."""
        inquiries = [bytes([0x12, page > 0, page, 1, 0, 0]) for page in (0, 0x80, 0x83)]
        elements = [status(volume_tag=1, device_identifier=named) for named in (0, 1)]
        return [self.ask(lun, cdb) for cdb in (*inquiries, LOCATE, *elements)]


@pytest.fixture
def library(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Library]:
    """The library of the figure that the test names, with the secrets that it names."""
    path = tmp_path / "tapebay.toml"
    shutil.copy(DOCS / "sharing" / f"{request.param}.toml", path)
    for account in config_file.load(path).chap.accounts:
        assert account.secret_file is not None
        secret = tmp_path / account.secret_file
        secret.write_text(f"secret of {account.user}\n")
        secret.chmod(0o600)
    library = Library.build(LibraryFiles.create(config_file.load(path)))
    try:
        yield library
    finally:
        library.close()


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("library", [name], indirect=True)


def fill(library: Library, *barcodes: str) -> None:
    """A cartridge in the first free slot of the partition that it is for."""
    from appliance.library.cartridges import medium_of
    from appliance.operations.free_places import places_in_partitions

    for barcode in barcodes:
        library.files.cartridges.create_all({barcode: medium_of(barcode, None, False)}, None)
        (address,) = places_in_partitions(library.files, [barcode], None)
        assert list(library.robot.add_all([(barcode, address)])) == [1]


@pytest.mark.parametrize(("name", "principal", "devices"), CASES)
def test_what_each_server_sees(name: str, principal: str, devices: dict[int, str]) -> None:
    _, seen = directory(name).decide(who(load(name), principal))
    assert seen.luns == devices


@pytest.mark.parametrize("name", NAMES)
def test_nobody_else_sees_anything(name: str) -> None:
    found = directory(name)
    for stranger in (f"{DEBIAN}stranger", "stranger"):
        with pytest.raises(Forbidden):
            found.decide(who(load(name), stranger))
    assert advice_on(load(name)) == []


def test_a_name_from_another_network_is_nobody() -> None:
    found = directory("reserved-device")
    with pytest.raises(Forbidden, match="zone library is not for the address"):
        found.decide(who(load("reserved-device"), f"{DEBIAN}first", "198.51.100.1"))


@of("three-servers")
def test_three_servers_take_turns_at_one_robot(library: Library) -> None:
    """Figures 1 and 3: one robot for all, a drive for each."""
    fill(library, "A00001L6", "A00002L6", "A00003L6")
    servers = [Server(library, f"server-{letter}") for letter in "abc"]
    for number, server in enumerate(servers):
        assert server.send(0, RESERVE) == GOOD
        for other in servers:
            expected = GOOD if other is server else CONFLICT
            assert other.send(0, move(4096 + number, 256 + number)) == expected
        for _ in servers:  # each to its own drive, whoever has the robot
            assert server.send(1 + number, REWIND) in (GOOD, 2)
        assert server.send(0, RELEASE) == GOOD
    assert [drive.cartridge is not None for drive in library.drives.values()] == [True] * 3
    assert [server.send(1 + number, REWIND) for number, server in enumerate(servers)] == [GOOD] * 3


@of("reserved-device")
def test_a_reserved_device(library: Library) -> None:
    """Figure 4: one has it, the other waits, the operator breaks what a dead server left."""
    fill(library, "A00001L6")
    first, second = (Server(library, f"{DEBIAN}{name}") for name in ("first", "second"))
    assert first.send(0, move(4096, 256)) == GOOD
    assert first.sense(1, READY) == second.sense(1, READY) == (6, 0x28, 0x00)  # the drive has become ready
    assert first.send(1, RESERVE) == GOOD
    assert second.send(1, READY) == second.send(1, REWIND) == second.send(1, RESERVE) == CONFLICT
    assert second.send(0, READY) == GOOD  # the robot is another device
    assert second.send(1, RELEASE) == GOOD  # of what it has not: nothing is released
    assert second.send(1, RESERVE) == CONFLICT
    break_reservations(library.drives["drive0"], lambda nexus: nexus == first.nexus)
    assert second.send(1, RESERVE) == GOOD


@of("three-libraries")
def test_sixty_slots_are_three_libraries(library: Library) -> None:
    """60 slots = 20/20/20: each is whole, and nothing that one does shows in another."""
    fill(library, *(f"{letter}0000{number}L6" for letter in "ABC" for number in range(1, 4)))
    a, b, c = (Server(library, f"server-{letter}") for letter in "abc")
    for letter, server in zip("ABC", (a, b, c), strict=True):
        data = server.ask(0, status(volume_tag=1))
        assert data[2:4] == (1 + 20 + 1 + 1).to_bytes(2, "big")
        assert data.count(f"{letter}0000".encode()) == 3
        assert not any(other.encode() in data for other in {"A0000", "B0000", "C0000"} - {f"{letter}0000"})
    before = b.everything(), c.everything()
    assert a.send(0, RESERVE) == GOOD
    assert a.send(0, move(4096, 256)) == GOOD
    assert a.send(0, move(4097, 16)) == GOOD
    assert a.send(1, REWIND) == 2  # not ready to ready: loaded
    assert (b.everything(), c.everything()) == before
    assert [server.send(lun, READY) for server in (b, c) for lun in (0, 1)] == [GOOD, 2] * 2  # their drives are empty
    assert a.sense(0, move(4098, 4116)) == (5, 0x21, 0x01)
    assert b.send(0, move(4096, 256)) == GOOD  # by the same addresses, of its own
    assert library.drives["drive1"].cartridge is not None


@of("two-platforms")
def test_two_platforms_two_libraries_and_reservations_inside_each(library: Library) -> None:
    """Figure 5."""
    fill(library, "U00001L6", "W00001L6")
    unix = [Server(library, f"unix-{number}") for number in (1, 2)]
    windows = [Server(library, f"windows-{number}") for number in (1, 2)]
    assert [server.ask(0, bytes([0x12, 0, 0, 0, 36, 0]))[8:32].split() for server in (unix[0], windows[0])] == [
        [b"IBM", b"3573-TL"],
        [b"STK", b"L700"],
    ]
    before = [server.everything() for server in windows]
    assert unix[0].send(0, RESERVE) == GOOD
    assert unix[1].send(0, move(4096, 256)) == CONFLICT
    assert unix[0].send(0, move(4096, 256)) == GOOD
    assert [server.everything() for server in windows] == before
    assert windows[1].send(0, move(1000, 500)) == GOOD  # the STK's addresses; the other zone's reservation is not its
    assert windows[1].sense(1, READY) == unix[1].sense(1, READY) == (6, 0x28, 0x00)  # their drives have become ready
    assert windows[1].send(1, RESERVE) == GOOD
    assert windows[0].send(1, REWIND) == CONFLICT
    assert unix[1].send(1, REWIND) == GOOD


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_shows_what_the_file_says(name: str) -> None:
    """`python -m tests.support.sharing_pictures` draws them anew."""
    drawn = (DOCS / "sharing" / f"{name}.svg").read_text()
    assert drawn == picture(name, load(name))
    texts = [text for text in ElementTree.fromstring(drawn).itertext() if text.strip()]
    for zone in load(name).zones:
        assert f"zone {zone.name}" in texts
        assert set(zone.device_names()) <= {text.rpartition(": ")[2] for text in texts}


def test_every_worked_configuration_is_explained_and_tested() -> None:
    files = {path.stem for path in (DOCS / "sharing").glob("*.toml")}
    assert files == set(NAMES) == {path.stem for path in (DOCS / "sharing").glob("*.svg")}
    page = (DOCS / "sharing.md").read_text()
    assert all(f"(sharing/{name}.toml)" in page and f"(sharing/{name}.svg)" in page for name in files)
