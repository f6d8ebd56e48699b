"""Two partitions over one robot: each a whole library with addresses of its own, neither sees anything of the other."""

import threading

import pytest

from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.changer.models import MODELS
from scsi_targets.devices.changer.robot import Asker, BetweenPartitions, Manner, Robot, RobotError, WrongBarcode
from scsi_targets.t10 import smc
from tests.support.database import new_database
from tests.unit.devices.changer.support import Bay, Tape, move, status
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from vlib_images.library.elements import InventoryError, Layout, NoSuchElement
from vlib_images.library.inventory import Inventory
from vlib_images.library.partition import Partition

LIBRARY = Layout(range(1, 2), storage=range(4096, 4140), import_export=range(16, 20), drives=range(256, 259))
IBM, HP = MODELS["IBM 3573-TL"], MODELS["HP MSL G3 Series"]
READY = bytes(6)


class Site:
    """A library of 44 slots, 4 import/export elements and 3 drives: 20 slots and one drive for a, 20 slots (not in one
    piece) and two drives for b, 4 slots for nobody."""

    def __init__(self, directory):
        self.inventory = Inventory(new_database(directory / "state"), LIBRARY)
        for number in range(6):
            self.inventory.add(f"A0000{number}L6", 4096 + number)
            self.inventory.add(f"B0000{number}L6", 4116 + number)
        self.bays = {address: Bay(f"10WT00000{index}") for index, address in enumerate(LIBRARY.drives)}
        self.opened = []
        self.robot = Robot(self.inventory, self.bays, self.open)
        self.parts = [
            IBM.partition("a", "LIB_a", transport=LIBRARY.transport, storage=range(4096, 4116),
                          import_export=range(16, 18), drives=range(256, 257)),
            HP.partition("b", "LIB_b", transport=LIBRARY.transport, storage=(*range(4116, 4126), *range(4130, 4140)),
                         import_export=(19, 18), drives=(258, 257), barcodes="B*"),
        ]  # fmt: skip
        self.a, self.b = self.changers = [MediaChanger(part, self.robot, state_key=part.name) for part in self.parts]

    def open(self, barcode):
        self.opened.append(Tape(barcode))
        return self.opened[-1]

    def refit(self, layout=LIBRARY, bays=None, a=None, b=None):
        shown = [(self.a, a or self.a.partition), (self.b, b or self.b.partition)]
        self.robot.refit(layout, bays or self.bays, shown)

    def close(self):
        for unit in (*self.changers, *self.bays.values()):
            unit.close()


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def everything(changer):
    """All that an initiator can ask a changer for: INQUIRY and its pages, mode pages, element status, log pages."""
    inquiry = [bytes([0x12, 0, 0, 0, 96, 0])] + [bytes([0x12, 1, page, 1, 0, 0]) for page in (0, 0x80, 0x83, 0x86)]
    modes = [bytes([0x5A, 8, page, 0, 0, 0, 0, 1, 0, 0]) for page in (0x1D, 0x1E, 0x1F, 0x3F)]
    logs = [bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 4, 0, 0]) for page in (0x14, 0x2E)]
    elements = [status(volume_tag=1, current_data=1), status(volume_tag=1, device_identifier=1)]
    return [data_of(send(changer, cdb)) for cdb in (*inquiry, *modes, *logs, *elements)]


def mode_page(changer, page):
    return data_of(send(changer, bytes([0x1A, 8, page, 0, 136, 0])))[4:]


def test_each_is_a_whole_library_of_its_own(site):
    assert mode_page(site.a, 0x1D) == bytes.fromhex("9d12 0001 0001 1000 0014 0010 0002 0100 0001 0000")
    assert mode_page(site.b, 0x1D) == bytes.fromhex("9d12 0000 0001 03e9 0014 0065 0002 0001 0002 0000")
    serials = [data_of(send(each, bytes([0x12, 1, 0x80, 0, 64, 0])))[4:] for each in site.changers]
    assert serials == [b"LIB_a", b"LIB_b"]
    identities = [each.identity for each in site.changers]
    assert [(each.vendor, each.product) for each in identities] == [("IBM", "3573-TL"), ("HP", "MSL G3 Series")]
    assert identities[0].naa != identities[1].naa
    for each, count in ((site.a, 1 + 20 + 2 + 1), (site.b, 1 + 20 + 2 + 2)):
        assert int.from_bytes(data_of(send(each, status()))[2:4], "big") == count


def test_drives_are_numbered_from_the_first_and_named_as_they_are(site):
    data = data_of(send(site.b, status(device_identifier=1, element_type_code=4)))
    assert data[:4] == bytes.fromhex("0001 0002")
    assert [data[16:18], data[32:42]] == [bytes.fromhex("0001"), b"10WT000002"]
    assert [data[42:44], data[58:68]] == [bytes.fromhex("0002"), b"10WT000001"]
    assert b"10WT" not in data_of(send(site.b, status(element_type_code=4)))


def test_drives_know_by_which_address_they_are_shown(site):
    assert [bay.shown_at for bay in site.bays.values()] == [("LIB_a", 256), ("LIB_b", 2), ("LIB_b", 1)]


def test_a_partition_that_changes_is_told(site):
    for changer in site.changers:
        changer.nexus_established(ALPHA)
        send(changer, READY)
    before = everything(site.a)
    for import_export, first in (((19, 18), (6, 0x28, 0x00)), ((19,), (6, 0x28, 0x01))):
        site.refit(b=HP.partition("b", "LIB_b", transport=LIBRARY.transport, storage=range(4116, 4140),
                                  import_export=import_export, drives=(257, 258)))  # fmt: skip
        assert [sense_of(send(site.b, READY)) for _ in range(2)] == [first, (6, 0x2A, 0x01)]
    assert mode_page(site.b, 0x1D) == bytes.fromhex("9d12 0000 0001 03e9 0018 0065 0001 0001 0002 0000")
    assert (site.bays[257].shown_at, site.bays[258].shown_at) == (("LIB_b", 1), ("LIB_b", 2))
    assert send(site.b, move(1024, 1)).status == 2
    assert send(site.b, move(1001, 1)).status == 0
    assert site.bays[257].cartridge.barcode == "B00000L6"
    assert everything(site.a) == before
    site.refit(b=HP.partition("b", "LIB_b", transport=LIBRARY.transport, storage=range(4116, 4140),
                              import_export=(), drives=(257,)))  # fmt: skip
    assert [bay.shown_at for bay in site.bays.values()] == [("LIB_a", 256), ("LIB_b", 1), ("", None)]
    with pytest.raises(ValueError, match="is not what this media changer was made for"):
        site.b.show(site.a.partition, set())


def test_a_library_that_grows_while_it_is_served(site):
    """More slots and a drive: the whole library's addresses shift, cartridges and drives stay what they are."""
    assert send(site.b, move(1001, 1)).status == 0
    site.bays[256].fails = (4, 0x31, 0)
    assert sense_of(send(site.a, move(4096, 256))) == (4, 0x53, 0)
    larger = Layout(range(1, 2), storage=range(5000, 5050), import_export=range(16, 20), drives=range(300, 304))
    bays = dict(zip(larger.drives, [*site.bays.values(), Bay("10WT000003")], strict=True))
    shifted = [
        IBM.partition("a", "LIB_a", transport=(1,), storage=range(5000, 5020), import_export=range(16, 18),
                      drives=(300, 303)),
        HP.partition("b", "LIB_b", transport=(1,), storage=(*range(5020, 5030), *range(5034, 5044)),
                     import_export=(19, 18), drives=(302, 301)),
    ]  # fmt: skip
    with pytest.raises(RobotError, match="drive 2 holds cartridge B00000L6"):
        site.refit(larger, bays | {302: bays[303], 303: bays[302]})
    with pytest.raises(InventoryError, match="B00005L6 is in storage:25, which would go"):
        fewer = Layout(range(1, 2), storage=range(4096, 4121), import_export=range(16, 20), drives=LIBRARY.drives)
        site.refit(fewer)
    assert site.inventory.layout == LIBRARY
    site.robot.refit(larger, bays, list(zip(site.changers, shifted, strict=True)))
    assert site.inventory.find("B00000L6").address == 302
    data = data_of(send(site.a, status(element_type_code=4)))
    assert data[:4] == bytes.fromhex("0100 0002")
    assert (data[18] & 4, data[34] & 4) == (4, 0)  # the fault is where it was
    assert send(site.a, move(4097, 257)).status == 0
    assert bays[303].cartridge.barcode == "A00001L6"
    assert send(site.b, move(1, 1001)).status == 0
    bays[303].close()


def test_a_status_is_of_before_or_of_after(site, monkeypatch):
    """A view changes only between two commands: nothing of a library whose elements change under a command shows."""
    larger = Layout(range(1, 2), storage=range(4116, 4166), import_export=range(16, 20), drives=range(256, 259))
    grown = IBM.partition("a", "LIB_a", transport=(1,), storage=range(4116, 4136), import_export=range(16, 18),
                          drives=(256,))  # fmt: skip
    shifted = HP.partition("b", "LIB_b", transport=(1,), storage=range(4146, 4166), import_export=(19, 18),
                           drives=(258, 257))  # fmt: skip
    look, begun = Partition.look, []

    def look_late(partition, inventory, kind, addresses):
        if not begun:  # the slots of a have the addresses of those of b before, when this looks at them
            begun.append(kind)
            site.refit(larger, a=grown, b=shifted)
        return look(partition, inventory, kind, addresses)

    monkeypatch.setattr(Partition, "look", look_late)
    for ask in (status(volume_tag=1, element_type_code=2), status(volume_tag=1)):
        data = data_of(send(site.a, ask))
        assert int.from_bytes(data[5:8], "big") == len(data) - 8
        assert (data.count(b"A0000"), data.count(b"B0000")) == (6, 0)
    assert begun


def test_a_move_by_addresses_of_before_is_refused(site):
    old = site.b.partition
    site.refit(b=HP.partition("b", "LIB_b", transport=(1,), storage=range(4116, 4136), import_export=(19, 18),
                              drives=(258, 257)))  # fmt: skip
    with pytest.raises(NoSuchElement, match="changed meanwhile"):
        site.robot.move(old.inside(1001), old.inside(1), manner=Manner.HOST, by=Asker(site.b, old))
    assert site.inventory.find("B00000L6").address == 4116


def test_moves_go_by_the_partitions_addresses(site):
    assert send(site.b, move(1001, 1)).status == 0
    assert site.bays[258].cartridge.barcode == "B00000L6"
    data = data_of(send(site.b, status(element_type_code=4, number_of_elements=1)))
    assert data[16:28] == bytes.fromhex("0001 01 00 00 00 000000 81 03e9")
    assert send(site.b, move(1, 1020)).status == 0
    assert site.inventory.find("B00000L6").address == 4139
    swap = smc.ExchangeMedium.encode(
        source_element_address=1002, first_destination_element_address=1020, second_destination_element_address=1002
    )
    assert send(site.b, swap).status == 0
    assert (site.inventory.find("B00001L6").address, site.inventory.find("B00000L6").address) == (4139, 4117)


def test_what_is_outside_is_no_element(site):
    for outside in (4116, 4126, 18, 257, 258):  # the inventory's addresses of what a has not
        for cdb in (move(4096, outside), move(outside, 4110)):
            assert sense_of(send(site.a, cdb)) == (5, 0x21, 0x01)
    for outside in (1021, 4096, 16, 256, 3, 103):
        assert sense_of(send(site.b, move(1001, outside))) == (5, 0x21, 0x01)
        ranged = bytes([0x37, 1, *outside.to_bytes(2, "big"), 0, 0, 0, 1, 0, 0])
        assert sense_of(send(site.b, ranged)) == (5, 0x21, 0x01)
    assert site.inventory.find("A00000L6").address == 4096


def test_nothing_that_happens_in_one_shows_in_the_other(site):
    for changer, nexus in ((site.a, ALPHA), (site.b, BETA)):
        changer.nexus_established(nexus)
        send(changer, READY, nexus=nexus)
    before = everything(site.a)
    assert send(site.b, move(1001, 1), nexus=BETA).status == 0
    assert send(site.b, move(1002, 101), nexus=BETA).status == 0
    assert send(site.b, bytes([0x1E, 0, 0, 0, 1, 0]), nexus=BETA).status == 0  # PREVENT
    assert send(site.b, bytes([0x16, 0, 0, 0, 0, 0]), nexus=BETA).status == 0  # RESERVE
    site.bays[257].fails = (4, 0x31, 0)
    assert sense_of(send(site.b, move(1003, 2), nexus=BETA)) == (4, 0x53, 0x00)
    site.inventory.add("B00009L6")
    site.robot.insert("B00009L6", 4139, manner=Manner.FORCE)  # the changer is reserved
    assert everything(site.a) == before
    assert send(site.a, READY).status == 0  # no unit attention
    assert sense_of(send(site.b, READY, nexus=BETA)) == (6, 0x28, 0x00)


def test_the_operators_hand_is_known_where_it_was(site):
    for changer in site.changers:
        changer.nexus_established(ALPHA)
        send(changer, READY)
    site.inventory.add("A00009L6")
    site.robot.insert("A00009L6", 17)
    assert sense_of(send(site.a, READY)) == (6, 0x28, 0x01)
    assert send(site.b, READY).status == 0
    site.inventory.add("B00009L6", 4110)
    with pytest.raises(BetweenPartitions, match="B00009L6 is in partition a, the other end in partition b"):
        site.robot.move(4110, 4138, manner=Manner.FORCE)
    site.robot.move(4110, 4138, between_partitions=True)
    for changer in site.changers:
        assert sense_of(send(changer, READY)) == (6, 0x28, 0x00)
    site.robot.move(4138, 4137)
    assert send(site.a, READY).status == 0
    assert sense_of(send(site.b, READY)) == (6, 0x28, 0x00)


def test_a_source_outside_is_unknown(site):
    site.robot.move(4096, 4128, between_partitions=True)  # a slot of nobody
    site.robot.move(4128, 4110, between_partitions=True)
    data = data_of(send(site.a, status(element_type_code=2, starting_element_address=4110, number_of_elements=1)))
    assert data[16:28] == bytes.fromhex("100e 09 00 00 00 000000 01 0000")


def test_the_import_export_lock_is_the_partitions(site):
    assert send(site.b, bytes([0x1E, 0, 0, 0, 1, 0])).status == 0
    site.inventory.add("B00009L6")
    with pytest.raises(Exception, match="locked the import/export"):
        site.robot.insert("B00009L6", 18)
    site.robot.insert("B00009L6", 16)


def test_a_barcode_rule_keeps_cartridges_out(site):
    site.inventory.add("A00009L6")
    with pytest.raises(WrongBarcode, match="A00009L6"):
        site.robot.insert("A00009L6", 18)
    with pytest.raises(WrongBarcode, match="A00000L6"):
        site.robot.move(4096, 4139, between_partitions=True)
    with pytest.raises(WrongBarcode, match="A00009L6"):  # whoever insists breaks no rule of the library
        site.robot.insert("A00009L6", 18, manner=Manner.FORCE)


def test_a_search_finds_what_is_inside(site):
    body = b"?0000*".ljust(32) + bytes(8)
    cdb = smc.SendVolumeTag.encode(send_action_code=5, parameter_list_length=40)
    request = smc.RequestVolumeElementAddress.encode(number_of_elements=0xFFFF, allocation_length=0xFFFF)
    assert send(site.b, cdb, data=body).status == 0
    data = data_of(send(site.b, request))
    assert data[:8] == bytes.fromhex("03e9 0006 05 000068")
    assert send(site.b, cdb, data=b"A00000L6".ljust(32) + bytes(8)).status == 0
    assert data_of(send(site.b, request))[:4] == bytes(4)
    assert send(site.b, cdb, data=b"B00003L6".ljust(32) + bytes(8)).status == 0
    assert data_of(send(site.b, request))[:4] == bytes.fromhex("03ec 0001")


def test_both_move_at_the_same_time(site):
    """Each robot job is whole: what both do in turns for a while loses no cartridge."""
    failures = []

    def shuttle(changer, slot, drive):
        for _ in range(40):
            for cdb in (move(slot, drive), move(drive, slot)):
                response = send(changer, cdb)
                failures.extend([response.sense] if response.status else [])

    threads = [
        threading.Thread(target=shuttle, args=arguments)
        for arguments in ((site.a, 4096, 256), (site.b, 1001, 1), (site.b, 1002, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert [bay.cartridge for bay in site.bays.values()] == [None] * 3
    assert [site.inventory.find(b).address for b in ("A00000L6", "B00000L6", "B00001L6")] == [4096, 4116, 4117]
    assert all(tape.closed for tape in site.opened)


def test_two_changers_over_the_whole_library_tell_each_other(tmp_path):
    inventory = Inventory(new_database(tmp_path / "state"), LIBRARY)
    inventory.add("A00001L6", 4096)
    bays = {address: Bay(f"10WT00000{address}") for address in LIBRARY.drives}
    robot = Robot(inventory, bays, Tape)
    first, second = (
        MediaChanger(Partition.whole(name, IBM.name, name, LIBRARY), robot, state_key=name) for name in ("one", "two")
    )
    for changer in (first, second):
        changer.nexus_established(ALPHA)
        send(changer, READY)
    assert send(first, move(4096, 256)).status == 0
    assert send(first, READY).status == 0
    assert sense_of(send(second, READY)) == (6, 0x28, 0x00)
    assert send(second, move(256, 4096)).status == 0
    assert sense_of(send(first, READY)) == (6, 0x28, 0x00)
    for unit in (first, second, *bays.values()):
        unit.close()
