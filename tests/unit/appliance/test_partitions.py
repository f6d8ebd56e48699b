"""Partitions as content of a library that is served: each is whole to who sees it, and the library enforces it.

The invariants of sharing that each test holds are quoted in its text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Who
from tests.unit.appliance.offline import offline
from tests.unit.devices.changer.support import move, status
from tests.unit.devices.support import ALPHA, data_of, send, sense_of
from vlib_images.library.database import events

READY = bytes(6)
LUNS_CHANGED, MODES_CHANGED = (6, 0x3F, 0x0E), (6, 0x2A, 0x01)
ELEMENTS_CHANGED, EXITS_CHANGED = (6, 0x28, 0x00), (6, 0x28, 0x01)
THIRDS = {
    "a": {"slots": "1-20", "import_export": "1", "drives": "drive0", "barcodes": "A*"},
    "b": {"slots": "21-40", "import_export": "2", "drives": "drive1", "barcodes": "B*", "model": "STK L700"},
    "c": {"slots": "41-60", "import_export": "3", "drives": "drive2", "barcodes": "C*"},
}


class Site:
    """A library of 60 slots, three import/export slots and three drives, or four, served without a network."""

    def __init__(self, directory: Path, drives: int = 3) -> None:
        plan = setup.plan(directory, portal="127.0.0.1:0", slots=60, import_export=3, drives=drives)
        self.path = setup.create(directory, plan)
        self.library = Library.open(config_file.load(self.path), apply=True)

    def do(self, verb_name: str, /, **given: Any) -> Any:
        verb = find(verb_name)
        context = OnLibrary(self.library.settings, self.path, self.library.files, self.library)
        return perform(verb, context, parameters_of(verb, given))

    def refused(self, verb_name: str, failure: Failure = Failure.REFUSED, /, **given: Any) -> str:
        with pytest.raises(OperatorError) as caught:
            self.do(verb_name, **given)
        assert caught.value.failure is failure
        return str(caught.value)

    def cut(self) -> None:
        for name, given in THIRDS.items():
            self.do("partition.create", name=name, **given)

    def view(self) -> View:
        target = self.library.settings.targets[0].iqn
        portal = self.library.directory.all_portals[0]
        return self.library.directory.open(Who("iqn.2026-11.test:alpha", bytes(6), target, portal))

    def log_in(self) -> None:
        for unit in self.library.units.values():
            unit.nexus_established(ALPHA)
            self.told(unit)

    def told(self, unit: Device | str) -> list[tuple[int, int, int]]:
        """The unit attentions that wait on a logical unit, taken."""
        found = []
        unit = self.library.units[unit] if isinstance(unit, str) else unit
        while (response := send(unit, READY)).status == 2 and sense_of(response)[0] == 6:
            found.append(sense_of(response))
        return found

    def events(self, action: str) -> list[tuple[str, str, dict[str, Any]]]:
        with self.library.files.database.read() as connection:
            return [(e.actor, e.subject, e.details) for e in events.latest(connection, 50) if e.action == action]

    def place(self, barcode: str) -> str:
        return str(self.do("cartridge.show", barcode=barcode)["place"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "lib")
    try:
        yield site
    finally:
        site.library.close()


def page(unit: Device, code: int) -> bytes:
    return data_of(send(unit, bytes([0x12, 1, code, 1, 0, 0])))[4:]


def mode_page(unit: Device, code: int) -> bytes:
    return data_of(send(unit, bytes([0x1A, 8, code, 0, 136, 0])))[4:]


def everything(unit: Device) -> list[bytes]:
    """All that an initiator can ask a media changer for."""
    pages = [page(unit, code) for code in (0x00, 0x80, 0x83, 0x86)]
    elements = [data_of(send(unit, status(volume_tag=1, device_identifier=both))) for both in (0, 1)]
    return [data_of(send(unit, bytes([0x12, 0, 0, 0, 96, 0]))), *pages, mode_page(unit, 0x3F), *elements]


def test_sixty_slots_are_three_libraries_of_twenty(site: Site) -> None:
    site.cut()
    assert list(site.library.changers) == ["a", "b", "c"]
    assert "changer" not in site.library.units  # once a partition exists there is no whole-library changer
    shown = {unit: lun for lun, unit in site.view().logical_units.items()}
    assert [shown[changer] for changer in site.library.changers.values()] == [0, 4, 5]  # nothing else is renumbered
    identities = [changer.identity for changer in site.library.changers.values()]
    assert [(each.vendor, each.product) for each in identities] == [
        ("IBM", "3573-TL"), ("STK", "L700"), ("IBM", "3573-TL"),
    ]  # fmt: skip
    assert len({each.serial_number for each in identities}) == len({each.naa for each in identities}) == 3
    assert mode_page(site.library.changers["a"], 0x1D) == bytes.fromhex(
        "9d12 0001 0001 1000 0014 0010 0001 0100 0001 0000"
    )
    assert mode_page(site.library.changers["b"], 0x1D) == bytes.fromhex(
        "9d12 0000 0001 03e8 0014 000a 0001 01f4 0001 0000"
    )
    shown = site.do("partition.list")
    assert [(row["name"], row["slots"], row["drives"], row["cartridges"]) for row in shown] == [
        ("a", "1-20", ["drive0"], 0), ("b", "21-40", ["drive1"], 0), ("c", "41-60", ["drive2"], 0),
    ]  # fmt: skip
    assert shown[1]["addresses"] == {
        "transport": "0-0", "storage": "1000-1019", "import_export": "10-10", "drive": "500-500",
    }  # fmt: skip


def test_drives_and_changer_agree(site: Site) -> None:
    """DVCID and every page of drives and changer are consistent with the partition."""
    site.cut()
    for (name, changer), drive in zip(site.library.changers.items(), site.library.drives.values(), strict=True):
        address = changer.partition.layout.drives.start
        assert page(drive, 0xB4) == address.to_bytes(2, "big"), name
        assert page(drive, 0xB3).decode() == changer.identity.serial_number
        data = data_of(send(changer, status(element_type_code=4, device_identifier=1)))
        assert data[16:18] == address.to_bytes(2, "big")
        assert drive.identity.serial_number.encode() in data
        others = [other.identity.serial_number for other in site.library.drives.values() if other is not drive]
        assert not any(other.encode() in data for other in others)


def test_a_slot_or_drive_is_in_at_most_one_partition(site: Site) -> None:
    """Invariant: at most one partition for a slot or drive."""
    site.do("partition.create", name="a", **THIRDS["a"])
    for given, what in (
        ({"slots": "20-25"}, "slot 20 is in partition a and in partition d"),
        ({"slots": "21", "import_export": "1-2"}, "import/export slot 1 is in partition a and in partition d"),
        ({"slots": "21", "drives": "drive1,drive0"}, "drive drive0 is in partition a and in partition d"),
        ({"slots": ","}, 'partition d has no slots; write for example "1-20"'),
        ({"slots": "60-61"}, "there is no slot 61; the library has 1 to 60"),
        ({"slots": "21", "drives": "drive9"}, "there is no drive 'drive9'; the library has drive0, drive1, drive2"),
    ):
        assert what in site.refused("partition.create", name="d", **given)
    assert "choose another name" in site.refused("partition.create", Failure.USAGE, name="changer", slots="21")
    endless = ",".join(["1-65535"] * 100_000)
    assert "has 1 twice" in site.refused("partition.create", Failure.USAGE, name="d", slots=endless)
    assert "no numbers of slots" in site.refused("partition.create", Failure.USAGE, name="d", slots="all")
    assert "there is a device drive1 already" in site.refused("partition.create", name="drive1", slots="21")
    assert list(site.library.changers) == ["a"]


def test_what_is_in_no_partition_is_the_operators_only(site: Site) -> None:
    site.do("cartridge.create", barcode="A00001L6", place="slot:30")
    site.do("partition.create", name="a", **THIRDS["a"])
    drives = site.library.drives
    assert set(site.view().logical_units.values()) == {site.library.changers["a"], drives["drive0"]}
    assert page(drives["drive1"], 0xB4) == b""
    assert b"A00001L6" not in data_of(send(site.library.changers["a"], status(volume_tag=1)))
    assert site.place("A00001L6") == "slot:30"
    site.library.start()
    rows = {row["place"]: row["partition"] for row in site.do("status")["elements"]}
    site.library.stop()
    assert (rows["slot:20"], rows["slot:30"], rows["picker:0"]) == ("a", None, None)


def test_barcodes_fit_the_rule_of_their_partition(site: Site) -> None:
    """Invariant: barcodes are unique in the library and fit their partition's rule."""
    site.cut()
    made = site.do("cartridge.create", barcode="B00001L6", count=3)
    assert [(row["place"], row["library_partition"]) for row in made] == [(f"slot:{n}", "b") for n in (21, 22, 23)]
    assert "has a cartridge B00001L6 already" in site.refused("cartridge.create", barcode="B00001L6", place="shelf")
    assert "fits the barcode rule of no partition" in site.refused("cartridge.create", barcode="X00001L6")
    assert "the barcode rule of partition b" in site.refused("cartridge.create", barcode="X00001L6", place="slot:25")
    site.do("cartridge.create", barcode="X00001L6", place="shelf")  # as an imported one is
    for force in (False, True):
        for place in ("slot:25", "ie:2"):  # the mail slot, too
            assert "barcode rule of partition b" in site.refused("move", cartridge="X00001L6", to=place, force=force)
    assert "barcode rule of partition c" in site.refused("move", cartridge="B00001L6", to="slot:45")
    assert "does not fit the barcode rule of partition b" in site.refused(
        "partition.change", name="b", barcodes="BACK*"
    )
    site.do("partition.change", name="b", barcodes="B*,X*")
    assert site.do("move", cartridge="X00001L6", to="ie:2")["to"] == "ie:2"
    assert site.do("partition.change", name="c", barcodes="*")["barcodes"] == "*"
    assert "say which: --partition" in site.refused("cartridge.create", barcode="X00002L6")
    assert site.do("cartridge.create", barcode="X00002L6", partition="c")[0]["place"] == "slot:41"


def test_moving_between_partitions_is_an_audited_operator_verb(site: Site) -> None:
    """Invariant: moving a cartridge between partitions is an audited operator verb."""
    site.do("partition.create", name="a", slots="1-20", import_export="1", drives="drive0")
    site.do("partition.create", name="b", slots="21-40", import_export="2", drives="drive1")
    site.do("cartridge.create", barcode="A00001L6", place="slot:1")
    site.log_in()
    changer = site.library.changers["a"]
    for outside in (21, 4116, 257, 17):  # an initiator has no address for what is in another partition
        assert sense_of(send(changer, move(4096, outside))) == (5, 0x21, 0x01)
    said = site.refused("load", cartridge="A00001L6", drive="drive1")
    assert said == (
        "cartridge A00001L6 is in partition a, the other end in partition b; "
        "an operator moves it from one to the other: tapebay move"
    )
    site.do("move", cartridge="A00001L6", to="slot:21")
    assert site.events("cartridge moved between partitions") == [
        ("operator", "A00001L6", {"from": "storage:0", "to": "storage:20", "from_partition": "a", "to_partition": "b"})
    ]
    assert (site.told("a"), site.told("b")) == ([ELEMENTS_CHANGED], [ELEMENTS_CHANGED])
    site.do("load", cartridge="A00001L6", drive="drive1")
    for slot in range(22, 41):
        site.do("cartridge.create", barcode=f"B000{slot}L6", place=f"slot:{slot}")
    site.do("cartridge.create", barcode="B00099L6", place="slot:21")
    assert "no slot is free" in site.refused("unload", drive="drive1")  # those of a are not b's
    site.do("move", cartridge="drive1", to="slot:1")


def test_places_by_a_partitions_own_count(site: Site) -> None:
    site.do("partition.create", name="b", slots="21-40", import_export="2", drives="drive1", model="STK L700")
    assert site.do("cartridge.create", barcode="B00001L6", place="b/ie:1")[0]["place"] == "ie:2"
    for place, of_the_library in (
        ("b/slot:20", "slot:40"), ("b/1000", "slot:21"), ("b/drive:0", "drive:1"), ("b/10", "ie:2"),
    ):  # fmt: skip
        assert site.do("move", cartridge="B00001L6", to=place)["to"] == of_the_library
        assert site.do("move", cartridge=place, to=place)["barcode"] == "B00001L6"
    for place, said in (
        ("b/slot:21", "partition b has no place 'slot:21'"),
        ("b/4096", "has no place '4096'"),
        ("b/", "has no place ''"),
        ("b/" + "9" * 5000, "has no place"),
        ("x/slot:1", "no partition x"),
    ):
        assert said in site.refused("move", Failure.NOT_FOUND, cartridge="B00001L6", to=place)


def test_a_partition_grows_and_shrinks_while_it_is_used(site: Site) -> None:
    site.do("partition.create", name="a", slots="1-20", import_export="1", drives="drive0")
    site.do("partition.create", name="b", slots="21-40", import_export="2", drives="drive1")
    site.do("cartridge.create", barcode="A00001L6", place="slot:20")
    site.log_in()
    others = everything(site.library.changers["b"])
    site.do("partition.change", name="a", add_slots="41-50")
    assert site.told("a") == [ELEMENTS_CHANGED, MODES_CHANGED]
    assert mode_page(site.library.changers["a"], 0x1D)[8:10] == (30).to_bytes(2, "big")
    site.do("partition.change", name="a", add_import_export="3")
    assert site.told("a") == [EXITS_CHANGED, MODES_CHANGED]
    refused = site.refused("partition.change", name="a", remove_slots="15-20")
    assert "cartridge A00001L6 is in slot:20, which would leave partition a" in refused
    assert "--to-shelf" in refused
    assert "cartridge A00001L6 is in slot:20" in site.refused("partition.delete", name="a")
    foreseen = site.do("partition.change", name="a", remove_slots="15-20", dry_run=True)["foreseen"]
    assert foreseen["refused"] == [
        "cartridge A00001L6 is in slot:20, which would leave partition a; move it to another place first"
    ]
    assert site.told("a") == []
    site.do("partition.change", name="a", remove_slots="15-20", to_shelf=True)
    assert site.place("A00001L6") == "shelf"
    assert site.do("partition.show", name="a")["slots"] == "1-14,41-50"
    assert site.events("cartridge taken out")[0][1] == "A00001L6"
    assert everything(site.library.changers["b"]) == others
    assert site.told("b") == site.told("drive1") == site.told("drive0") == []


def test_moving_a_drive_is_told_by_the_drive(site: Site) -> None:
    """A drive's B4h and the DVCID agree with its partition's addresses, and moving a drive raises 3F/0E."""
    site.do("partition.create", name="a", slots="1-20", drives="drive0,drive1")
    site.do("partition.create", name="b", slots="21-40", drives="drive2", model="STK L700")
    site.do("cartridge.create", barcode="A00001L6", place="slot:1")
    site.do("load", cartridge="A00001L6", drive="drive1")
    site.log_in()
    both = {"remove_drives": "drive1"}
    assert "is in drive:1" in site.refused("partition.change", name="a", to_shelf=True, **both)
    site.do("unload", drive="drive1")
    site.told("a")
    site.do("partition.change", name="a", **both)
    assert site.told("drive1") == [LUNS_CHANGED]
    site.do("partition.change", name="b", drives="drive1,drive2")
    assert site.told("drive1") == site.told("drive2") == [LUNS_CHANGED]
    assert site.told("drive0") == []
    assert [page(drive, 0xB4).hex() for drive in site.library.drives.values()] == ["0100", "01f4", "01f5"]
    serial = site.library.changers["b"].identity.serial_number
    assert page(site.library.drives["drive1"], 0xB3).decode() == serial


def test_the_last_partition_gives_the_whole_back(site: Site) -> None:
    site.do("partition.create", name="a", slots="1-20", drives="drive0")
    site.do("cartridge.create", barcode="A00001L6", place="slot:7")
    assert "say --whole" in site.refused("partition.delete", name="a")
    foreseen = site.do("partition.delete", name="a", whole=True, dry_run=True)["foreseen"]
    assert foreseen == {"sessions": [], "refused": []}
    site.do("partition.delete", name="a", whole=True)
    assert list(site.library.changers) == ["changer"]
    assert b"A00001L6" in data_of(send(site.library.changers["changer"], status(volume_tag=1)))
    assert [page(drive, 0xB4).hex() for drive in site.library.drives.values()] == ["0100", "0101", "0102"]
    assert site.do("partition.list") == []


def test_a_zone_holds_the_changer_of_a_partition(site: Site) -> None:
    site.do("zone.create", name="one", initiators="iqn.2026-11.test:alpha", devices="changer,drive0")
    refused = site.refused("partition.create", name="a", **THIRDS["a"])
    assert refused.startswith("zone one: a library with partitions has no 'changer' of the whole, but one of each")
    site.do("zone.change", name="one", remove_devices="changer")
    site.do("partition.create", name="a", **THIRDS["a"])
    site.do("zone.change", name="one", add_devices="a")
    assert set(site.view().logical_units.values()) == {site.library.changers["a"], site.library.drives["drive0"]}
    answer = site.do("who", initiator="iqn.2026-11.test:alpha")[0]
    assert answer["partitions"] == {"a": "a", "drive0": "a"}
    assert "zone one: there is no device 'a'" in site.refused("partition.delete", name="a", whole=True)


def test_a_file_declares_partitions(site: Site) -> None:
    """plan, apply and show-config: three-way, as for everything that a library contains."""
    text = site.path.read_text()
    declared = (
        '\n[[partitions]]\nname = "a"\nslots = "1-20"\nimport_export = "1"\ndrives = ["drive0"]\nbarcodes = "A*"\n'
    )
    site.path.write_text(text + declared)
    line = "+ partition a: barcodes A*, drives ['drive0'], import_export 1, slots 1-20"
    assert site.do("configuration.plan")["changes"] == [line]
    assert site.do("configuration.apply")["changes"] == [line]
    assert list(site.library.changers) == ["a"]
    shown = tomllib.loads(site.do("configuration.show")["toml"])
    assert shown["partitions"] == [
        {"name": "a", "slots": "1-20", "import_export": "1", "drives": ["drive0"], "barcodes": "A*"}
    ]
    site.do("partition.change", name="a", add_slots="21-30")
    plan = site.do("configuration.plan")
    assert (plan["changes"], plan["drift"]) == ([], ["partition a: slots 1-30, but 1-20 in tapebay.toml"])
    site.do("cartridge.create", barcode="A00001L6", place="slot:1")
    site.path.write_text(text + declared.replace('slots = "1-20"', 'slots = "2-20"'))
    assert "A00001L6 is in slot:1" in site.do("configuration.plan")["refused"][0]
    assert "A00001L6 is in slot:1" in site.refused("configuration.apply")
    site.do("configuration.apply", to_shelf=True)
    assert site.place("A00001L6") == "shelf"
    site.path.write_text(text)
    assert site.do("configuration.plan")["removals"] == ["- partition a"]
    site.do("configuration.apply", prune=True)
    assert list(site.library.changers) == ["changer"]


def test_a_change_that_cannot_be_kept_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.do("partition.create", name="a", slots="1-20", drives="drive0", import_export="1")
    site.do("cartridge.create", barcode="A00001L6", place="slot:20")
    before = everything(site.library.changers["a"])

    def full(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("appliance.library.contents.content_rows.change", full)
    site.refused("partition.change", name="a", remove_slots="20", to_shelf=True)
    site.refused("partition.create", name="b", slots="21-40", drives="drive1")
    monkeypatch.undo()
    assert site.place("A00001L6") == "slot:20"
    assert everything(site.library.changers["a"]) == before
    assert list(site.library.changers) == list(site.library.settings.changer_names()) == ["a"]


def test_without_a_daemon_the_same_rules_hold(tmp_path: Path) -> None:
    plan = setup.plan(tmp_path / "lib", portal="127.0.0.1:0", slots=60, import_export=3, drives=3)
    path = setup.create(tmp_path / "lib", plan)
    for name, given in THIRDS.items():
        offline(path, "partition.create", name=name, **given)
    assert offline(path, "cartridge.create", barcode="B00001L6")[0]["place"] == "slot:21"
    with pytest.raises(OperatorError, match="barcode rule of partition a"):
        offline(path, "cartridge.create", barcode="B00002L6", place="slot:2")
    with pytest.raises(OperatorError, match="B00001L6 is in slot:21, which would leave partition b"):
        offline(path, "partition.change", name="b", remove_slots="21-22")
    offline(path, "partition.change", name="b", remove_slots="21-22", to_shelf=True)
    assert offline(path, "cartridge.show", barcode="B00001L6")["place"] == "shelf"
    library = Library.open(config_file.load(path))
    try:
        assert [len(changer.partition.layout.storage) for changer in library.changers.values()] == [20, 18, 20]
    finally:
        library.close()


def test_a_start_takes_no_cartridge_out_of_its_partition(tmp_path: Path) -> None:
    plan = setup.plan(tmp_path / "lib", portal="127.0.0.1:0", slots=60, drives=3)
    path = setup.create(tmp_path / "lib", plan)
    text = path.read_text()
    path.write_text(text + '\n[[partitions]]\nname = "a"\nslots = "1-20"\n')
    offline(path, "configuration.apply")
    offline(path, "cartridge.create", barcode="A00001L6", place="slot:1")
    path.write_text(text + '\n[[partitions]]\nname = "a"\nslots = "2-20"\n')
    with pytest.raises(OperatorError, match="cannot be applied: cartridge A00001L6 is in slot:1"):
        Library.open(config_file.load(path), apply=True)
    Library.open(config_file.load(path)).close()
