"""Who may do what to which device: the library against an oracle of few lines, thousands of steps without a difference.

TAPEBAY_SHARING_EXAMPLES=2000 pytest -n 2 tests/property/access/test_sharing.py      # an hour
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Forbidden, Who
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest, TaskResponse
from scsi_targets.iscsi.task_management import TaskManager
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import smc, spc, ssc
from tests.property.access.oracle import CONFLICT, GOOD, NOTHING, Action, Answer, Oracle
from tests.property.access.site import (
    ALICE,
    BOB,
    CAROL,
    CHANGERS,
    DEVICES,
    DISKS,
    DRIVES,
    IQN,
    LUNS,
    MEMORY,
    NAMES,
    PARTITIONS,
    PORTAL,
    PRINCIPALS,
    Holder,
    Site,
    Zones,
    encode_lun,
    nexus_of,
    send,
    sense_of,
    told,
    who,
)
from tests.support.scsi import inquiry, read_10, write_10

EXAMPLES = int(os.environ.get("TAPEBAY_SHARING_EXAMPLES", "200"))
STEPS = 60
NUMBER = {name: lun for lun, name in LUNS.items()}
BLOCK = 512
ZONES = st.lists(
    st.tuples(
        st.sets(st.sampled_from(NAMES), min_size=1),
        st.booleans(),
        st.lists(st.sampled_from(DEVICES), unique=True, min_size=2, max_size=6),
    ),
    min_size=1,
    max_size=4,
) | st.sampled_from([[], [(set(NAMES), True, DEVICES)], [(set(NAMES), True, ["a", "drive0", "left"])]])
ANY_LUN = (*LUNS, 4, 16383)
OF_MEDIA = [NUMBER[name] for name in (*DISKS, *DRIVES)]
# Each partition's own addresses, the library's, and some that nobody has.
OWN_ADDRESSES = {p.name: [a for _, run in p.layout.ranges() for a in run] for p in PARTITIONS}
ADDRESSES = sorted({a for own in OWN_ADDRESSES.values() for a in own} | {4101, 4105, 17, 257, 2, 0xFFFF})
KEYS = st.sampled_from([0, 1, 2])
TYPES = st.sampled_from([1, 3, 5, 6, 7, 8])
SERVICE_ACTIONS = ("register", "reserve", "release", "clear", "preempt", "preempt and abort", "register and ignore")


def persistent_reserve_out(action: str, key: int, other_key: int, type_: int, survives: bool) -> tuple[bytes, bytes]:
    data = key.to_bytes(8, "big") + other_key.to_bytes(8, "big") + bytes(4) + bytes([survives, 0, 0, 0])
    return bytes([0x5F, SERVICE_ACTIONS.index(action), type_, 0, 0, 0, 0, 0, 24, 0]), data


class Sharing(RuleBasedStateMachine):
    """Sessions of three principals while the zones change under them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="sharing.", dir=MEMORY if MEMORY.is_dir() else None)
        self.oracle = Oracle()
        self.site = Site(Path(self.folder.name))
        self.views: dict[Principal, View] = {}
        self.focus = 0

    def teardown(self) -> None:
        self.site.close()
        self.folder.cleanup()

    # ---- sessions ----------------------------------------------------------------------------------------------------

    @initialize(zones=ZONES, focus=st.sampled_from(list(LUNS)))
    def begin(self, zones: Zones, focus: int) -> None:
        """focus: the logical unit that half of the commands go to, so that initiators meet there."""
        self.focus = focus
        self.zones_change(zones)

    def somewhere(self, data: st.DataObject, luns: Sequence[int] = ANY_LUN) -> int:
        """Commands to logical units of those numbers."""
        return self.focus if self.focus in luns and data.draw(st.booleans()) else data.draw(st.sampled_from(luns))

    @rule(zones=ZONES)
    def zones_change(self, zones: Zones) -> None:
        self.oracle.zones = zones
        self.site.show(zones)
        for principal in list(self.views):
            self.renew(principal)
        self.everybody_comes_back()

    def everybody_comes_back(self) -> None:
        for principal in PRINCIPALS:
            if principal not in self.views:
                self.log_in(principal)

    def renew(self, principal: Principal) -> None:
        """As a session does between two commands."""
        before, nexus = self.views.pop(principal), nexus_of(principal)
        try:
            after = self.site.directory.open(who(principal))
        except Forbidden:
            assert not self.oracle.sees(principal)
            self.leave(principal, before)
            return
        for unit in before.units().keys() - after.units().keys():
            unit.nexus_lost(nexus)
        for unit in after.units().keys() - before.units().keys():
            unit.nexus_established(nexus)
        self.views[principal] = after
        self.oracle.left(principal, set(DEVICES) - self.oracle.sees(principal))

    def leave(self, principal: Principal, view: View) -> None:
        view.nexus_lost(nexus_of(principal))
        self.oracle.left(principal, DEVICES)

    @rule(principal=st.sampled_from(list(PRINCIPALS)))
    def log_in(self, principal: Principal) -> None:
        try:
            view = self.site.directory.open(who(principal))
        except Forbidden:
            assert not self.oracle.sees(principal)
            return
        assert self.oracle.sees(principal)
        if (before := self.views.pop(principal, None)) is not None:
            self.leave(principal, before)
        view.nexus_established(nexus_of(principal))
        self.views[principal] = view

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def log_out(self, data: st.DataObject) -> None:
        principal = self.somebody(data)
        self.leave(principal, self.views.pop(principal))

    @rule(name=st.sampled_from(NAMES), account=st.sampled_from([None, "payroll", "nobody"]))
    def somebody_pretends(self, name: str, account: str | None) -> None:
        """Whatever name is given with whatever account: only what that principal may see, and a right account."""
        claimed = Principal.initiator(name) if account is None else Principal.account(account)
        right = (name, account) in {(ALICE, None), (BOB, None), (CAROL, "payroll")}
        try:
            principal, seen = self.site.directory.decide(Who(name, bytes(6), IQN, PORTAL, "192.0.2.1", account))
        except Forbidden:
            return
        assert right and principal == claimed
        assert set(seen.luns.values()) == self.oracle.sees(principal)

    @rule()
    def power_is_cut(self) -> None:
        self.views.clear()
        self.oracle.power_cut()
        self.site.power_cut(self.oracle.zones)
        self.everybody_comes_back()

    def somebody(self, data: st.DataObject) -> Principal:
        return data.draw(st.sampled_from(list(self.views)))

    # ---- commands ----------------------------------------------------------------------------------------------------

    def ask(
        self, principal: Principal, lun: int, cdb: bytes, data: bytes | None = None
    ) -> tuple[Answer, tuple[int, bytes, bytes]]:
        """Status or sense of a command, and all of it; unit attentions come first."""
        for _ in range(10):
            result = told(send(self.views[principal], nexus_of(principal), lun, cdb, data))
            found = sense_of(result)
            if found is None or found[0] != 6:
                return found or result[0], result
        raise AssertionError("unit attentions without an end")

    def expect(self, principal: Principal, lun: int, action: Action) -> Answer | None:
        """What whoever may not gets; None: it may."""
        device = LUNS.get(lun, "")
        if device not in self.oracle.sees(principal):
            return NOTHING
        return None if self.oracle.may(principal, device, action) else CONFLICT

    @precondition(lambda self: self.views)
    @rule(data=st.data(), payload=st.binary(min_size=1, max_size=4))
    def store(self, data: st.DataObject, payload: bytes) -> None:
        principal, lun = self.somebody(data), self.somewhere(data)
        device = LUNS.get(lun, "")
        if device in DRIVES:
            if (refused := self.expect(principal, lun, "read")) is not None:
                assert self.ask(principal, lun, ssc.Rewind.encode())[0] == refused
                return
            rewound, loaded = self.ask(principal, lun, ssc.Rewind.encode())[0], self.oracle.loaded(device)
            assert rewound == (GOOD if loaded else (2, 0x3A, 0))
            if loaded:
                self.oracle.at_start[loaded] = True
            cdb, block = ssc.Write6.encode(transfer_length=len(payload)), payload
        else:
            cdb, block = write_10(0, 1), payload.ljust(BLOCK, b"\0")
        answer, _ = self.ask(principal, lun, cdb, block)
        expected = self.expect(principal, lun, "write")
        if expected is None and device in CHANGERS:
            expected = 5, 0x20, 0
        elif expected is None and device in DRIVES and loaded is None:
            expected = 2, 0x3A, 0
        if device in CHANGERS and expected == CONFLICT:
            expected = 5, 0x20, 0  # a command that there is not is refused first
        assert answer == (expected or GOOD)
        if expected is None:
            medium = loaded if device in DRIVES else device
            self.oracle.kept[medium] = block
            self.oracle.at_start[medium] = False

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def fetch(self, data: st.DataObject) -> None:
        principal, lun = self.somebody(data), self.somewhere(data, OF_MEDIA)
        device = LUNS[lun]
        expected = self.expect(principal, lun, "read")
        if device in DISKS:
            answer, (_, _, block) = self.ask(principal, lun, read_10(0, 1))
            assert answer == (expected or GOOD)
            assert block == (b"" if expected else self.oracle.kept[device].ljust(BLOCK, b"\0"))
            return
        loaded = self.oracle.loaded(device)
        rewound, _ = self.ask(principal, lun, ssc.Rewind.encode())
        assert rewound == (expected or (GOOD if loaded else (2, 0x3A, 0)))
        if loaded is None or expected is not None:
            return
        answer, (_, _, block) = self.ask(
            principal, lun, ssc.Read6.encode(transfer_length=BLOCK, suppress_incorrect_length=1)
        )
        kept = self.oracle.kept[loaded]
        assert (answer, block) == ((GOOD, kept) if kept else ((8, 0, 5), b""))
        self.oracle.at_start[loaded] = not kept

    @precondition(lambda self: self.views)
    @rule(data=st.data(), action=st.sampled_from(["inquire", "reserve", "release"]), ten=st.booleans())
    def reserve_and_release(self, data: st.DataObject, action: Action, ten: bool) -> None:
        principal, lun = self.somebody(data), self.somewhere(data)
        device = LUNS.get(lun, "")
        reserve, release = (spc.Reserve10, spc.Release10) if ten else (spc.Reserve6, spc.Release6)
        cdb = {"inquire": inquiry(), "reserve": reserve.encode(), "release": release.encode()}[action]
        answer, (status, _, data_in) = self.ask(principal, lun, cdb)
        expected = self.expect(principal, lun, action)
        if action == "inquire":
            assert status == 0 and (data_in[0] == 0x7F) is (expected is not None)
            return
        assert answer == (expected or GOOD)
        if expected is None and action == "reserve":
            self.oracle.held[device].reserved = principal
        elif expected is None:
            self.oracle.left(principal, [device])

    @precondition(lambda self: self.views)
    @rule(
        data=st.data(), action=st.sampled_from(SERVICE_ACTIONS), keys=st.tuples(KEYS, KEYS), type_=TYPES,
        right_key=st.sampled_from([True, True, False]), survives=st.booleans(),
    )  # fmt: skip
    def reserve_persistently(
        self, data: st.DataObject, action: str, keys: tuple[int, int], type_: int, right_key: bool, survives: bool
    ) -> None:
        principal, lun = self.somebody(data), self.somewhere(data)
        held = self.oracle.held.get(LUNS.get(lun, ""))
        key = held.keys.get(principal, 0) if right_key and held else keys[0]
        self.persistently(principal, lun, action, key, keys[1], type_, survives)

    @precondition(lambda self: self.views)
    @rule(
        data=st.data(), then=st.sampled_from(SERVICE_ACTIONS[1:6]), other=st.sampled_from([0, 1, 2, 3]), type_=TYPES,
        survives=st.booleans(),
    )  # fmt: skip
    def hold(self, data: st.DataObject, then: str, other: int, type_: int, survives: bool) -> None:
        """What servers of a cluster do: register, then reserve or take over from another."""
        principal, lun = self.somebody(data), self.somewhere(data)
        key = 1 + list(PRINCIPALS).index(principal)
        self.persistently(principal, lun, "register and ignore", 0, key, type_, survives)
        self.persistently(principal, lun, "reserve", key, 0, type_, survives)
        self.persistently(principal, lun, then, key, other, type_, survives)

    def persistently(
        self, principal: Principal, lun: int, action: str, key: int, other: int, type_: int, survives: bool
    ) -> None:
        answer, _ = self.ask(principal, lun, *persistent_reserve_out(action, key, other, type_, survives))
        expected = self.expect(principal, lun, "register")
        if expected is None:
            held = self.oracle.held[LUNS[lun]]
            if action.startswith("register"):
                expected = held.register(principal, key, other, ignore="ignore" in action, survives=survives)
            elif action == "reserve":
                expected = held.reserve(principal, key, type_)
            elif action == "release":
                expected = held.release(principal, key, type_)
            elif action == "clear":
                expected = held.clear(principal, key)
            else:
                expected = held.preempt(principal, key, other, type_)
        assert answer == expected

    # ---- the robot ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.views)
    @rule(data=st.data(), whence=st.booleans(), where=st.booleans(), outside=st.sampled_from(ADDRESSES))
    def move(self, data: st.DataObject, whence: bool, where: bool, outside: int) -> None:
        """whence, where: whether the source is a full element of the partition, the destination any of its own."""
        principal, lun = self.somebody(data), self.somewhere(data, (0, 1, 0, 1, 0, 1, *ANY_LUN))
        device = LUNS.get(lun, "")
        full = [address for address, barcode in self.oracle.elements.get(device, {}).items() if barcode]
        source = data.draw(st.sampled_from(full)) if whence and full else outside
        destination = data.draw(st.sampled_from(OWN_ADDRESSES[device])) if where and full else outside
        cdb = smc.MoveMedium.encode(source_element_address=source, destination_element_address=destination)
        answer, _ = self.ask(principal, lun, cdb)
        expected = self.expect(principal, lun, "write")
        if device and device not in CHANGERS and expected != NOTHING:
            expected = 5, 0x20, 0
        assert answer == (self.oracle.move(device, source, destination) if expected is None else expected)

    @precondition(lambda self: self.views)
    @rule(data=st.data(), lun=st.sampled_from([0, 1]))
    def look_at_elements(self, data: st.DataObject, lun: int) -> None:
        principal, device = self.somebody(data), LUNS[lun]
        cdb = smc.ReadElementStatus.encode(
            volume_tag=1, number_of_elements=0xFFFF, allocation_length=0xFFFF, current_data=1
        )
        answer, (_, _, shown) = self.ask(principal, lun, cdb)
        if device not in self.oracle.sees(principal):
            assert (answer, shown) == (NOTHING, b"")
            return
        assert answer == GOOD
        assert elements_in(shown) == self.oracle.elements[device]

    # ---- copies ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.views)
    @rule(
        data=st.data(),
        source=st.sampled_from([*DISKS, "nowhere"]),
        destination=st.sampled_from([*DISKS, *DRIVES, "nowhere"]),
    )
    def copy(self, data: st.DataObject, source: str, destination: str) -> None:
        """A block, between what the requester sees; what it does not see is as what is nowhere."""
        principal, manager = self.somebody(data), self.somewhere(data, OF_MEDIA)
        answer, result = self.send_copy(principal, manager, source, destination)
        expected, seen = self.expect(principal, manager, "write"), self.oracle.sees(principal)
        if expected is not None:
            assert answer == expected
        elif not {source, destination} <= seen:
            nowhere = [name if name in seen else "nowhere" for name in (source, destination)]
            assert self.send_copy(principal, manager, *nowhere)[1] == result, "what is hidden is as what is not there"
            assert answer == (0xA, 0x0D, 0x02)
        else:
            may = self.oracle.may(principal, source, "read") and self.oracle.may(principal, destination, "write")
            medium = self.oracle.loaded(destination) if destination in DRIVES else destination
            assert (answer == GOOD) is (may and medium is not None), answer
            if answer == GOOD and medium is not None and (destination in DISKS or self.oracle.at_start[medium]):
                self.oracle.kept[medium] = self.oracle.kept[source].ljust(BLOCK, b"\0")
            if answer == GOOD and medium is not None:
                self.oracle.at_start[medium] = False

    def send_copy(
        self, principal: Principal, manager: int, source: str, destination: str
    ) -> tuple[Answer, tuple[int, bytes, bytes]]:
        to_tape = destination in DRIVES
        cscds = [self.cscd(source), self.cscd(destination, tape=to_tape)]
        if to_tape:
            segment = copy.BlockToStream.encode(
                source=0, destination=1, stream_device_transfer_length=BLOCK, number_of_blocks=1
            )
        else:
            segment = copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=1)
        parameters = copy.parameter_list(cscds, [segment])
        cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(parameters))
        return self.ask(principal, manager, cdb, parameters)

    def cscd(self, name: str, *, tape: bool = False) -> bytes:
        naa = self.site.units[name].identity.naa if name in DEVICES else bytes.fromhex("6000000000000000")
        return copy.identification_descriptor(naa, device_type=int(tape), block_length=0 if tape else BLOCK)

    # ---- task management ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.views)
    @rule(
        data=st.data(),
        function=st.sampled_from(
            [
                TaskFunction.LOGICAL_UNIT_RESET,
                TaskFunction.TARGET_WARM_RESET,
                TaskFunction.CLEAR_TASK_SET,
                TaskFunction.ABORT_TASK_SET,
            ]
        ),
    )
    def manage_tasks(self, data: st.DataObject, function: TaskFunction) -> None:
        principal, lun = self.somebody(data), self.somewhere(data)
        holders = {each: Holder(view) for each, view in self.views.items()}
        manager = TaskManager(holders[principal], nexus_of(principal), lambda: list(holders.values()))
        answer = manager.perform(TaskManagementRequest.make(function=function, lun=encode_lun(lun)))
        seen = self.oracle.sees(principal)
        whole = function is TaskFunction.TARGET_WARM_RESET
        hit = seen if whole else seen & {LUNS.get(lun, "")}
        assert answer == (TaskResponse.FUNCTION_COMPLETE if hit or whole else TaskResponse.LUN_DOES_NOT_EXIST)
        if function in (TaskFunction.LOGICAL_UNIT_RESET, TaskFunction.TARGET_WARM_RESET):
            for device in hit:
                self.oracle.reset(device)

    # ---- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def everybody_sees_what_the_oracle_says(self) -> None:
        for principal, view in self.views.items():
            answer = send(view, nexus_of(principal), 0, spc.ReportLuns.encode(allocation_length=4096))
            numbers = told(answer)[2][8:]
            luns = {int.from_bytes(numbers[at : at + 2], "big") & 0x3FFF for at in range(0, len(numbers), 8)}
            assert luns == {NUMBER[device] for device in self.oracle.sees(principal)}

    @invariant()
    def everything_is_where_it_ought_to_be(self) -> None:
        for name in DISKS:
            block = bytearray(BLOCK)
            self.site.images[name].read_into(block, 0)
            assert block == self.oracle.kept[name].ljust(BLOCK, b"\0")
        for partition in PARTITIONS:
            elements = self.oracle.elements[partition.name]
            barcodes = {address: self.site.inventory.element(partition.inside(address)).barcode for address in elements}
            assert barcodes == elements

    @invariant()
    def reservations_are_whose_they_ought_to_be(self) -> None:
        for name, unit in self.site.units.items():
            is_, ought = unit.reservations, self.oracle.held[name]
            assert (is_.legacy_holder.principal if is_.legacy_holder else None) == ought.reserved
            assert {nexus.principal: key for nexus, key in is_.registrations.items()} == ought.keys
            assert (is_.type or 0) == ought.type
            for principal in PRINCIPALS:
                assert is_.is_holder(nexus_of(principal)) is ought.is_holder(principal)


def elements_in(data: bytes) -> dict[int, str | None]:
    """Address to barcode, of READ ELEMENT STATUS data with volume tags; without the transport."""
    found: dict[int, str | None] = {}
    at = 8
    while at < len(data):
        kind, length = data[at], int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 8 + int.from_bytes(data[at + 5 : at + 8], "big")
        for start in range(at + 8, end, length):
            full, tag = data[start + 2] & 1, data[start + 12 : start + 44].decode().strip()
            if kind != 1:
                found[int.from_bytes(data[start : start + 2], "big")] = tag if full else None
        at = end
    return found


TestSharing = pytest.mark.timeout(300 + EXAMPLES)(Sharing.TestCase)
TestSharing.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
)
