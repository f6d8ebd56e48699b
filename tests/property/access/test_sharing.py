"""Who may do what to which device: the library against an oracle of a few lines, and zones that share nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.access.directory import Directory
from appliance.settings import config_file
from appliance.settings.settings import Settings, ZoneSettings
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Forbidden, Portal, Who
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest, TaskResponse
from scsi_targets.iscsi.task_management import TaskManager
from scsi_targets.t10 import spc
from tests.support.scsi import inquiry, read_10, write_10
from tests.unit.iscsi.dummy import Fetch, Memory, Store
from vlib_images.disk.memory import MemoryImage

IQN = "iqn.2026-11.io.tapebay:library"
PORTAL = Portal("127.0.0.1", 3260)
NAMES = [f"iqn.1993-08.org.debian:{name}" for name in ("alice", "bob", "carol")]
CONFIG = f"""
[[portals]]
listen = "127.0.0.1:3260"
[[targets]]
iqn = "{IQN}"
luns = {{ 0 = "a", 1 = "b", 2 = "c", 5 = "d" }}
[[chap.accounts]]
initiator = "{NAMES[2]}"
user = "payroll"
secret = "twelve chars"
""" + "".join(f'[[disks]]\nname = "{name}"\nsize = "1 MiB"\n' for name in "abcd")  # fmt: skip
LUNS = {0: "a", 1: "b", 2: "c", 5: "d"}
SETTINGS = config_file.parse(Path("tapebay.toml"), CONFIG)
# Each principal, with the initiator name that it comes with. Carol has an account: her name alone is nothing.
PRINCIPALS = {
    Principal.initiator(NAMES[0]): NAMES[0],
    Principal.initiator(NAMES[1]): NAMES[1],
    Principal.account("payroll"): NAMES[2],
}
ZONES = st.lists(
    st.tuples(
        st.sets(st.sampled_from(NAMES)), st.booleans(), st.lists(st.sampled_from("abcd"), unique=True, max_size=3)
    ),
    max_size=3,
)


def zoned(zones: Sequence[tuple[set[str], bool, list[str]]]) -> Settings:
    """payroll: whether its account is in the zone. Carol's mere name in a zone must let nobody in."""
    sections = [
        ZoneSettings(name=f"z{number}", initiators=sorted(names), accounts=["payroll"] * payroll, devices=devices)
        for number, (names, payroll, devices) in enumerate(zones)
    ]
    return SETTINGS.model_copy(update={"zones": sections})


def who(principal: Principal) -> Who:
    account = principal.name if principal == Principal.account(principal.name) else None
    return Who(PRINCIPALS[principal], bytes(6), IQN, PORTAL, "192.0.2.1", account)


def nexus_of(principal: Principal) -> Nexus:
    return Nexus(PRINCIPALS[principal], bytes(6), IQN, principal=principal)


def send(view: View, nexus: Nexus, lun: int, cdb: bytes, data: bytes | None = None) -> Response:
    answers: list[Response] = []
    padded = cdb.ljust(16, b"\0")
    task = Task(nexus, lun, padded, data_out=data, data_in_limit=1 << 16, complete=answers.append, view=view)
    response = view.execute(task)
    assert response is not None, "nothing here is slow"
    return response


def told(response: Response) -> tuple[int, bytes, bytes]:
    data = b"" if response.data_in is None else bytes(memoryview(response.data_in)[: response.data_length])
    return response.status, bytes(response.sense), data


class NoConnection:
    """Nothing waits for data: commands come one at a time."""

    def abort(self, **_which: Any) -> bool:
        return False

    def plug(self, _cmd_sn: int) -> bool:
        return False


class Holder:
    def __init__(self, view: View) -> None:
        self.view: View | None = view
        self.connection: Any = NoConnection()


class Oracle:
    """What ought to be: who sees what, what each device keeps, who reserved it."""

    def __init__(self) -> None:
        self.zones: list[tuple[set[str], bool, list[str]]] = []
        self.kept = dict.fromkeys("abcd", b"")
        self.reserved: dict[str, Principal] = {}

    def sees(self, principal: Principal) -> set[str]:
        if not self.zones:  # open, but not to who has no account where there are accounts
            return set("abcd") if principal == Principal.account("payroll") else set()
        return {
            device
            for names, payroll, devices in self.zones
            for device in devices
            if (payroll if principal == Principal.account("payroll") else principal.name in names)
        }

    def may(self, principal: Principal, device: str, action: str) -> bool:
        if device not in self.sees(principal):
            return False
        return action in ("inquire", "reset", "release") or self.reserved.get(device, principal) == principal


class Sharing(RuleBasedStateMachine):
    """Sessions of three principals while the zones change under them."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.units = {name: Memory(f"M{name}") for name in "abcd"}
        self.directory = Directory(SETTINGS, self.units)
        self.views: dict[Principal, View] = {}

    @rule(zones=ZONES)
    def zones_change(self, zones: list[tuple[set[str], bool, list[str]]]) -> None:
        self.oracle.zones = zones
        self.directory = Directory(zoned(zones), self.units)
        for principal in list(self.views):
            self.renew(principal)

    def renew(self, principal: Principal) -> None:
        """As a session does between two commands."""
        before, nexus = self.views.pop(principal), nexus_of(principal)
        try:
            after = self.directory.open(who(principal))
        except Forbidden:
            assert not self.oracle.sees(principal)
            self.leave(principal, before)
            return
        for unit in before.units().keys() - after.units().keys():
            unit.nexus_lost(nexus)
        for unit in after.units().keys() - before.units().keys():
            unit.nexus_established(nexus)
        self.views[principal] = after
        self.forget(principal, {"a", "b", "c", "d"} - self.oracle.sees(principal))

    def leave(self, principal: Principal, view: View) -> None:
        view.nexus_lost(nexus_of(principal))
        self.forget(principal, set("abcd"))

    def forget(self, principal: Principal, devices: set[str]) -> None:
        for device in devices:
            if self.oracle.reserved.get(device) == principal:
                del self.oracle.reserved[device]

    @rule(principal=st.sampled_from(list(PRINCIPALS)))
    def log_in(self, principal: Principal) -> None:
        try:
            view = self.directory.open(who(principal))
        except Forbidden:
            assert not self.oracle.sees(principal)
            return
        assert self.oracle.sees(principal)
        if (before := self.views.pop(principal, None)) is not None:
            self.leave(principal, before)
        view.nexus_established(nexus_of(principal))
        self.views[principal] = view

    @rule(name=st.sampled_from(NAMES), account=st.sampled_from([None, "payroll", "nobody"]))
    def somebody_pretends(self, name: str, account: str | None) -> None:
        """Whatever name is given with whatever account: only what that principal may see, and a right account."""
        claimed = Principal.initiator(name) if account is None else Principal.account(account)
        right = (name, account) in {(NAMES[0], None), (NAMES[1], None), (NAMES[2], "payroll")}
        try:
            principal, seen = self.directory.decide(Who(name, bytes(6), IQN, PORTAL, "192.0.2.1", account))
        except Forbidden:
            return
        assert right and principal == claimed
        assert set(seen.luns.values()) == self.oracle.sees(principal)

    @precondition(lambda self: self.views)
    @rule(
        data=st.data(),
        lun=st.sampled_from([0, 1, 2, 3, 5, 300]),
        action=st.sampled_from(["store", "fetch", "reserve", "release", "inquire"]),
        payload=st.binary(min_size=1, max_size=4),
    )
    def command(self, data: st.DataObject, lun: int, action: str, payload: bytes) -> None:
        principal = data.draw(st.sampled_from(list(self.views)))
        device = LUNS.get(lun, "")
        status, sense, answer = self.perform(principal, lun, action, payload)
        if device not in self.oracle.sees(principal):
            if action == "inquire":
                assert (status, answer[0]) == (0, 0x7F)
            else:
                assert (status, sense[2] & 0x0F, sense[12:14]) == (2, 5, b"\x25\0")
            return
        if not self.oracle.may(principal, device, action):
            assert status == 0x18
            return
        assert status == 0
        if action == "store":
            self.oracle.kept[device] = payload
        elif action == "fetch":
            assert answer == (self.oracle.kept[device] + bytes(4))[:4]
        elif action == "reserve":
            self.oracle.reserved[device] = principal
        elif action == "release":
            self.forget(principal, {device})

    def perform(self, principal: Principal, lun: int, action: str, payload: bytes) -> tuple[int, bytes, bytes]:
        cdb = {
            "store": Store.encode(),
            "fetch": Fetch.encode(length_bytes=4),
            "reserve": spc.Reserve6.encode(),
            "release": spc.Release6.encode(),
            "inquire": inquiry(),
        }[action]
        for _ in range(10):  # unit attentions come first
            data = payload if action == "store" else None
            result = told(send(self.views[principal], nexus_of(principal), lun, cdb, data))
            if not (result[0] == 2 and result[1][2] & 0x0F == 6):
                return result
        raise AssertionError("unit attentions without an end")

    @precondition(lambda self: self.views)
    @rule(data=st.data(), lun=st.sampled_from([0, 1, 2, 3, 5]), whole=st.booleans())
    def reset(self, data: st.DataObject, lun: int, whole: bool) -> None:
        principal = data.draw(st.sampled_from(list(self.views)))
        holders = {each: Holder(view) for each, view in self.views.items()}
        manager = TaskManager(holders[principal], nexus_of(principal), lambda: list(holders.values()))
        function = TaskFunction.TARGET_WARM_RESET if whole else TaskFunction.LOGICAL_UNIT_RESET
        answer = manager.perform(TaskManagementRequest.make(function=function, lun=lun << 48))
        seen = self.oracle.sees(principal)
        hit = seen if whole else seen & {LUNS.get(lun, "")}
        assert answer == (TaskResponse.FUNCTION_COMPLETE if hit else TaskResponse.LUN_DOES_NOT_EXIST)
        for device in hit:
            self.oracle.reserved.pop(device, None)

    @invariant()
    def everybody_sees_what_the_oracle_says(self) -> None:
        for principal, view in self.views.items():
            answer = send(view, nexus_of(principal), 0, spc.ReportLuns.encode(allocation_length=4096))
            if answer.status == 2:
                continue  # a unit attention, which command() takes
            numbers = told(answer)[2][8:]
            luns = {int.from_bytes(numbers[at : at + 2], "big") & 0x3FFF for at in range(0, len(numbers), 8)}
            assert luns == {lun for lun, device in LUNS.items() if device in self.oracle.sees(principal)}

    @invariant()
    def what_is_kept_is_what_was_stored(self) -> None:
        assert {name: unit.kept for name, unit in self.units.items()} == self.oracle.kept
        holders = {name: unit.reservations.legacy_holder for name, unit in self.units.items()}
        assert {name: held.principal for name, held in holders.items() if held is not None} == self.oracle.reserved

    def teardown(self) -> None:
        for unit in self.units.values():
            unit.close()


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)

BLOCK = b"\xa5" * 512
COMMANDS = st.sampled_from(
    [
        (bytes(6), None),
        (inquiry(), None),
        *((bytes([0x12, 1, page, 1, 0, 0]), None) for page in (0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2)),
        (spc.ReportLuns.encode(allocation_length=4096), None),
        (bytes([0x1A, 0, 0x3F, 0, 255, 0]), None),  # MODE SENSE, all pages
        *((bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 1, 0, 0]), None) for page in (0x00, 0x02, 0x03, 0x19)),
        (bytes([0x03, 0, 0, 0, 252, 0]), None),  # REQUEST SENSE
        *((bytes([0x5E, action, 0, 0, 0, 0, 0, 1, 0, 0]), None) for action in range(4)),  # PERSISTENT RESERVE IN
        (read_10(0, 1), None),
        (write_10(0, 1), BLOCK),
        (read_10(1 << 20, 1), None),
        (spc.Reserve6.encode(), None),
        (spc.Release6.encode(), None),
        (bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), bytes(8) + b"\x11" * 8 + bytes(8)),  # REGISTER
        (bytes([0x5F, 1, 3, 0, 0, 0, 0, 0, 24, 0]), b"\x11" * 8 + bytes(16)),  # RESERVE, exclusive access
        (bytes([0x5F, 3, 0, 0, 0, 0, 0, 0, 24, 0]), b"\x11" * 8 + bytes(16)),  # CLEAR
        (bytes([0xEE]) + bytes(15), None),
    ]
)
STEPS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 5]), COMMANDS), max_size=25)


def answers_of_the_first(mine: Sequence[Any], others: Sequence[Any]) -> list[tuple[int, bytes, bytes]]:
    """What alice's commands to her two disks are answered, while bob's go to his."""
    units = {
        name: BlockDevice(Identity("TAPEBAY", "DISK", "1", f"SERIAL{name}"), MemoryImage(1 << 20)) for name in "abcd"
    }
    directory = Directory(zoned([({NAMES[0]}, False, ["a", "c"]), ({NAMES[1]}, False, ["b", "d"])]), units)
    alice, bob = (Principal.initiator(name) for name in NAMES[:2])
    views = {principal: directory.open(who(principal)) for principal in (alice, bob)}
    for principal, view in views.items():
        view.nexus_established(nexus_of(principal))
    answers = []
    try:
        for number in range(max(len(mine), len(others))):
            for lun, (cdb, data) in others[number : number + 1]:
                send(views[bob], nexus_of(bob), lun, cdb, data)
            for lun, (cdb, data) in mine[number : number + 1]:
                answers.append(told(send(views[alice], nexus_of(alice), lun, cdb, data)))
    finally:
        for unit in units.values():
            unit.close()
    return answers


@settings(max_examples=30, deadline=None)
@given(mine=STEPS, others=STEPS)
def test_zones_that_share_nothing_do_not_show_in_each_other(mine: Sequence[Any], others: Sequence[Any]) -> None:
    """Every page, count, status and sense is the same, whatever happens in the other zone."""
    assert answers_of_the_first(mine, others) == answers_of_the_first(mine, [])
