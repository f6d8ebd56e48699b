"""Partitions that come, change and go while initiators use the library: only those concerned notice, and a dry run says
beforehand what each session gains and loses."""

# ruff: noqa: F401, F811 (fixtures of other modules)

from __future__ import annotations

import threading
from typing import Any

import pytest

from appliance.failures import OperatorError
from datamover.initiator import InitiatorSession
from scsi_targets.t10 import smc
from tests.support.waiting import eventually
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_live_changes import LUNS_CHANGED, Device, daemon, luns, settle, tapebay
from tests.unit.appliance.test_zones_live import ALICE, BOB, alice, bob, log_in, settled

ELEMENTS_CHANGED, MODES_CHANGED = (0x28, 0x00), (0x2A, 0x01)
ELEMENTS = smc.ReadElementStatus.encode(number_of_elements=0xFFFF, allocation_length=0xFFFF, volume_tag=1)

DECLARED = f"""
[[partitions]]
name = "a"
slots = "1-2"
import_export = "1"
drives = ["drive0"]
[[partitions]]
name = "b"
model = "STK L700"
slots = "3"
drives = ["drive1"]
[[zones]]
name = "hers"
initiators = ["{ALICE}"]
luns = {{ 0 = "a", 1 = "drive0" }}
[[zones]]
name = "his"
initiators = ["{BOB}"]
luns = {{ 0 = "b", 1 = "drive1" }}
"""


def cut(daemon: Daemon) -> None:
    """Slots 1 and 2 with drive0 for alice, slot 3 with drive1 for bob; both by LUNs 0 and 1. All at once, so that
    neither is ever without a zone."""
    path = daemon.directory / "tapebay.toml"
    path.write_text(path.read_text() + DECLARED)
    daemon.call("configuration.apply")


def effects(foreseen: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Of each initiator: what it gains, loses, sees change, and whether it would be logged out."""
    return {
        row["initiator"]: (row["gains"], row["loses"], row["changes"], bool(row["ends"]))
        for row in foreseen["sessions"]
    }


def shown(session: InitiatorSession, lun: int = 0) -> int:
    """How many elements a media changer shows."""
    data = bytes(Device(session, lun).command(ELEMENTS, data_in_length=0xFFFF).data)
    return int.from_bytes(data[2:4], "big")


def test_a_dry_run_says_what_each_session_gains_and_loses(
    daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession
) -> None:
    zone = {"name": "hers", "initiators": ALICE, "devices": "changer,drive1"}
    foreseen = daemon.call("zone.create", **zone, dry_run=True)["foreseen"]
    assert effects(foreseen) == {
        ALICE: ([], ["LUN 1 drive0", "LUN 3 one"], [], False),
        BOB: ([], ["LUN 0 changer", "LUN 1 drive0", "LUN 2 drive1", "LUN 3 one"], [], True),
    }
    part = {"name": "a", "slots": "1-2", "drives": "drive0"}
    foreseen = daemon.call("partition.create", **part, dry_run=True)["foreseen"]
    assert effects(foreseen)[ALICE] == (["LUN 0 a"], ["LUN 0 changer", "LUN 2 drive1"], [], False)
    assert daemon.call("zone.list") == daemon.call("partition.list") == []
    assert (luns(alice), settle(Device(alice, 0))) == ([0, 1, 2, 3], [])  # nothing was changed
    said = tapebay(daemon, "partition", "create", "a", "--slots", "1-2", "--drives", "drive0", "--dry-run").stdout
    assert f"of {ALICE} at " in said
    assert "loses LUN 2 drive1" in said
    assert said.endswith("Nothing was changed.\n")
    path = daemon.directory / "tapebay.toml"
    path.write_text(path.read_text() + '\n[[partitions]]\nname = "a"\nslots = "1-2"\ndrives = ["drive0"]\n')
    assert "gains LUN 0 a" in tapebay(daemon, "plan").stdout
    assert effects(daemon.call("configuration.apply", dry_run=True))[BOB][0] == ["LUN 0 a"]


def test_a_partition_grows_for_its_own_initiators_only(
    daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession
) -> None:
    daemon.call("cartridge.create", barcode="A00001L6", place="slot:1")
    cut(daemon)
    eventually(lambda: luns(alice) == luns(bob) == [0, 1])
    for session in (alice, bob):
        settled(session)
    assert (shown(alice), shown(bob)) == (1 + 2 + 1 + 1, 1 + 1 + 0 + 1)
    foreseen = daemon.call("partition.change", name="a", add_slots="4", dry_run=True)["foreseen"]
    assert effects(foreseen) == {ALICE: ([], [], ["a: slots 1-2 -> 1-2,4"], False)}
    daemon.call("partition.change", name="a", add_slots="4")
    assert settle(Device(alice, 0)) == [ELEMENTS_CHANGED, MODES_CHANGED]
    assert [settle(Device(*unit)) for unit in ((alice, 1), (bob, 0), (bob, 1))] == [[], [], []]
    assert (shown(alice), shown(bob)) == (6, 3)
    with pytest.raises(OperatorError, match="A00001L6 is in slot:1, which would leave partition a"):
        daemon.call("partition.change", name="a", slots="2,4")
    daemon.call("partition.change", name="a", remove_drives="drive0")
    assert settle(Device(alice, 1)) == []  # it is gone: nobody but operators sees a drive of no partition
    eventually(lambda: luns(alice) == [0])
    result = Device(alice, 1).command(bytes(6))
    assert (result.sense[2] & 0x0F, result.sense[12]) == (5, 0x25)


def test_the_command_line_says_what_is_where(daemon: Daemon, alice: InitiatorSession) -> None:
    daemon.call("cartridge.create", barcode="A00001L6", place="slot:2")
    daemon.call("cartridge.create", barcode="A00002L6", place="slot:4")
    assert "No partitions" in tapebay(daemon, "partition", "list").stdout
    cut(daemon)
    rows = {line.split()[0]: line for line in tapebay(daemon, "partition", "list").stdout.splitlines()[2:]}
    assert rows["a"].split()[-5:] == ["1-2", "1", "drive0", "*", "1"]
    assert "STK L700" in rows["b"]
    shown = tapebay(daemon, "partition", "show", "b").stdout
    assert "element addresses: transport 0-0, storage 1000-1000, drive 500-500" in shown
    cartridges = tapebay(daemon, "cartridge", "list").stdout.splitlines()
    assert [line.split()[:3] for line in cartridges[2:]] == [
        ["A00001L6", "slot:2", "a"],
        ["A00002L6", "slot:4", "LTO-6"],
    ]
    assert "0 a, 1 drive0 (a)" in tapebay(daemon, "who", ALICE).stdout
    status = tapebay(daemon, "status").stdout.splitlines()
    assert any(line.split()[:4] == ["slot:2", "4097", "a", "4097"] for line in status)
    assert any(line.split()[:3] == ["0", "a", "a"] for line in status)
    moved = tapebay(daemon, "move", "A00001L6", "slot:3").stdout
    assert moved == "A00001L6: slot:2 -> slot:3\n"
    audit = daemon.call("audit.list")
    assert "cartridge moved between partitions" in str(audit)
    daemon.call("zone.change", name="his", remove_devices="b,drive1")
    assert "refused: cartridge A00001L6 is in slot:3" in tapebay(daemon, "partition", "delete", "b", "--dry-run").stdout
    said = tapebay(daemon, "partition", "delete", "b", "--to-shelf", "--yes").stdout
    assert said == "partition b is deleted\n"


def test_a_target_gets_another_lun_map(daemon: Daemon, alice: InitiatorSession) -> None:
    iqn = daemon.call("target.list")[0]["iqn"]
    foreseen = daemon.call("target.change", iqn=iqn, luns="0=drive1,7=one", dry_run=True)["foreseen"]
    gained, lost, _, ends = effects(foreseen)[ALICE]
    assert (gained, lost, ends) == (
        ["LUN 0 drive1", "LUN 7 one"], ["LUN 0 changer", "LUN 1 drive0", "LUN 2 drive1", "LUN 3 one"], False,
    )  # fmt: skip
    daemon.call("target.change", iqn=iqn, luns="0=drive1,7=one")
    eventually(lambda: luns(alice) == [0, 7])
    assert LUNS_CHANGED in settle(Device(alice, 7))
    with pytest.raises(OperatorError, match="there is no device 'drive9'"):
        daemon.call("target.change", iqn=iqn, luns="0=drive9")
    daemon.call("target.change", iqn=iqn, luns="automatic")
    eventually(lambda: luns(alice) == [0, 1, 2, 3])


def test_nobody_else_is_disturbed_by_a_change(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    """Invariant: a view changes only between two commands. Those of the other partition go on all the while."""
    cut(daemon)
    eventually(lambda: luns(alice) == luns(bob) == [0, 1])
    sessions = [bob, *(log_in(daemon, BOB) for _ in range(3))]
    stop, statuses = threading.Event(), [0] * len(sessions)

    def work(number: int) -> None:
        settled(sessions[number])
        while not stop.is_set():
            result = Device(sessions[number], 0).command(ELEMENTS, data_in_length=0xFFFF)
            assert result.status == 0, result.sense.hex()
            statuses[number] += 1
        statuses[number] = -statuses[number]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(sessions))]
    for thread in threads:
        thread.start()
    eventually(lambda: all(statuses))
    for slots in ("1-2,4", "1-2", "2", "1,2,4"):
        daemon.call("partition.change", name="a", slots=slots)
        assert {ELEMENTS_CHANGED, MODES_CHANGED} <= set(settle(Device(alice, 0)))
        assert shown(alice) == 3 + len(slots.replace("1-2", "1,2").split(","))
    stop.set()
    for thread in threads:
        thread.join(60)
    for session in sessions[1:]:
        session.close()
    assert all(count < 0 for count in statuses), "a command of another partition failed"
