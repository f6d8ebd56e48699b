"""Partitions under whatever an operator and initiators do: the invariants of sharing hold after each step.

at most one partition for a slot or drive; barcodes unique in the library and fitting their partition's rule;
no initiator moves a cartridge out of its partition; what is refused has changed nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appliance.failures import OperatorError
from appliance.library.library import Library
from appliance.operations import setup
from appliance.operations.perform import find, parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from tests.unit.devices.changer.support import move, status
from tests.unit.devices.support import ALPHA, data_of, send
from vlib_images.library.elements import ElementType
from vlib_images.library.partition import admits

SLOTS, EXITS, DRIVES = 8, 2, 3
PARTS = strategies.sampled_from(["a", "b", "c"])
BARCODES = strategies.sampled_from([f"{letter}0000{number}L6" for letter in "AB" for number in range(3)])
RULES = strategies.sampled_from(["*", "A*", "B*", "A*,B0*"])
NUMBERS = strategies.sets(strategies.integers(1, SLOTS), min_size=1, max_size=5).map(sorted)
WORDS = strategies.sampled_from(
    [*(f"slot:{n}" for n in range(1, SLOTS + 1)), "ie:1", "ie:2", "drive:0", "drive:1", "drive:2", "shelf"]
)


def text(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


class Partitions(RuleBasedStateMachine):
    """A library of eight slots, two import/export slots and three drives."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        plan = setup.plan(
            Path(self.folder.name) / "lib", portal="127.0.0.1:0", slots=SLOTS, import_export=EXITS, drives=DRIVES
        )
        self.path = setup.create(Path(self.folder.name) / "lib", plan)
        self.library = Library.open(config_file.load(self.path), apply=True)

    def teardown(self) -> None:
        self.library.close()
        self.folder.cleanup()

    def do(self, verb_name: str, /, **given: Any) -> bool:
        """Whether it was done; what is refused has changed nothing."""
        verb = find(verb_name)
        context = OnLibrary(self.library.settings, self.path, self.library.files, self.library)
        before = self.library.files.contents.content, self.library.files.inventory.places()
        try:
            perform(verb, context, parameters_of(verb, given))
        except OperatorError:
            assert (self.library.files.contents.content, self.library.files.inventory.places()) == before
            return False
        return True

    @rule(name=PARTS, slots=NUMBERS, drive=strategies.sampled_from(["", "drive0", "drive1", "drive2", "drive0,drive2"]),
          exits=strategies.sampled_from(["", "1", "2", "1,2"]), rule=RULES)  # fmt: skip
    def create(self, name: str, slots: list[int], drive: str, exits: str, rule: str) -> None:
        given = {"slots": text(slots), "drives": drive, "import_export": exits, "barcodes": rule}
        self.do("partition.create", name=name, **given)

    @rule(name=PARTS, slots=NUMBERS, rule=RULES, to_shelf=strategies.booleans())
    def change(self, name: str, slots: list[int], rule: str, to_shelf: bool) -> None:
        self.do("partition.change", name=name, slots=text(slots), barcodes=rule, to_shelf=to_shelf)

    @rule(name=PARTS, drives=strategies.sampled_from(["", "drive0", "drive1,drive0", "drive2"]))
    def give_drives(self, name: str, drives: str) -> None:
        self.do("partition.change", name=name, drives=drives)

    @rule(name=PARTS, to_shelf=strategies.booleans())
    def delete(self, name: str, to_shelf: bool) -> None:
        self.do("partition.delete", name=name, whole=True, to_shelf=to_shelf)

    @rule(slots=strategies.integers(4, SLOTS), to_shelf=strategies.booleans())
    def resize(self, slots: int, to_shelf: bool) -> None:
        self.do("changer.resize", slots=slots, to_shelf=to_shelf)
        self.do("changer.resize", slots=SLOTS)

    @rule(barcode=BARCODES, place=WORDS)
    def make(self, barcode: str, place: str) -> None:
        self.do("cartridge.create", barcode=barcode, place=place)

    @rule(barcode=BARCODES, place=WORDS, force=strategies.booleans())
    def operator_moves(self, barcode: str, place: str, force: bool) -> None:
        self.do("move", cartridge=barcode, to=place, force=force)

    @rule(barcode=BARCODES, drive=strategies.integers(0, DRIVES - 1))
    def operator_loads(self, barcode: str, drive: int) -> None:
        inventory, robot = self.library.files.inventory, self.library.robot
        source = inventory.find(barcode) if barcode in inventory else None
        destination = inventory.layout.drives[drive]
        if self.do("load", cartridge=barcode, drive=f"drive:{drive}") and source is not None:
            assert robot.partition_of(source.address) == robot.partition_of(destination)

    @rule(drive=strategies.integers(0, DRIVES - 1))
    def operator_unloads(self, drive: int) -> None:
        inventory, robot = self.library.files.inventory, self.library.robot
        address = inventory.layout.drives[drive]
        barcode = inventory.element(address).barcode
        if self.do("unload", drive=f"drive:{drive}"):
            home = inventory.find(str(barcode))
            assert home is not None
            assert robot.partition_of(home.address) == robot.partition_of(address)

    @rule(name=strategies.sampled_from(["a", "b", "c", "changer"]), source=strategies.integers(0, 20),
          destination=strategies.integers(0, 20))  # fmt: skip
    def initiator_moves(self, name: str, source: int, destination: int) -> None:
        changer = self.library.changers.get(name)
        if changer is None:
            return
        others = self.outside(name)
        own = [address for _, run in changer.partition.layout.ranges() for address in run]
        send(changer, move(own[source % len(own)], own[destination % len(own)]))
        assert self.outside(name) == others

    def outside(self, name: str) -> dict[Any, str]:
        """Every cartridge that is not in a partition, by place."""
        own = self.library.changers[name].partition
        layout = self.library.files.inventory.layout
        return {
            place: barcode
            for place, barcode in self.library.files.inventory.places().items()
            if own.outside(layout.elements_of(place[0])[place[1]]) is None
        }

    @invariant()
    def a_slot_or_drive_is_in_at_most_one_partition(self) -> None:
        owners: dict[int, str] = {}
        for name, changer in self.library.changers.items():
            for kind, members in changer.partition.elements.items():
                for address in members if kind is not ElementType.TRANSPORT else ():
                    assert owners.setdefault(address, name) == name
        assert list(self.library.changers) == self.library.settings.changer_names()

    @invariant()
    def barcodes_fit_the_rule(self) -> None:
        layout = self.library.files.inventory.layout
        for place, barcode in self.library.files.inventory.places().items():
            owner = self.library.robot.partition_of(layout.elements_of(place[0])[place[1]])
            partition = self.library.changers[owner].partition if owner is not None else None
            assert partition is None or admits(partition.barcodes, barcode)

    @invariant()
    def each_shows_its_own_and_drives_agree(self) -> None:
        for changer in self.library.changers.values():
            shown = data_of(send(changer, status(volume_tag=1)))
            inside = {b for b in self.library.files.inventory.places().values() if b.encode() in shown}
            own, layout = changer.partition, self.library.files.inventory.layout
            assert inside == {
                barcode
                for place, barcode in self.library.files.inventory.places().items()
                if own.outside(layout.elements_of(place[0])[place[1]]) is not None
            }
        for address, drive in zip(
            self.library.files.inventory.layout.drives, self.library.drives.values(), strict=True
        ):
            owner = self.library.robot.partition_of(address)
            at = None if owner is None else self.library.changers[owner].partition.outside(address)
            page = data_of(send(drive, bytes([0x12, 1, 0xB4, 0, 255, 0]), nexus=ALPHA))[4:]
            assert page == (b"" if at is None else at.to_bytes(2, "big"))


Partitions.TestCase.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPartitions = Partitions.TestCase
