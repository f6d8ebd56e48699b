"""Several Linux servers share one library, each a guest of its own with its own name and account, as the files of
docs/sharing have it: each its own slice at once, or all in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.interop.guest import PACKAGES, GuestRun, Step
from tests.interop.worked import BOOT_SECONDS, Server, Worked, run_together
from tests.support import packages

pytestmark = [pytest.mark.guest, pytest.mark.timeout(BOOT_SECONDS + 60)]

TREE = "mkdir -p /tmp/tree && for n in {1..40}; do head -c 100000 /dev/urandom >/tmp/tree/$n; done"
BACK_UP = "tar -C /tmp -b 512 -cf $TAPE0 tree && mt -f $TAPE0 rewind && tar -C /tmp -b 512 -df $TAPE0 && echo same"
LOOK = "mtx -f $CHANGER status"


def initiator(name: str) -> str:
    return f"iqn.1993-08.org.debian:{name}"


# ---- each its own ----------------------------------------------------------------------------------------------------


def test_three_servers_back_up_at_once_each_in_its_own_library(tmp_path: Path) -> None:
    """The article's 60 slots: each server has a library of 20 with a drive, and all three use it at the same time."""
    packages.require(*PACKAGES, "mtx", "mt-st")
    with Worked(tmp_path, "three-libraries") as library:
        for letter in "ABC":
            library.call("cartridge.create", barcode=f"{letter}00001L6", count=3)
        accounts = [account.user for account in library.settings.chap.accounts]
        assert accounts == ["server-a", "server-b", "server-c"]
        runs = run_together(library, [(Server(initiator(name), 2, name), slice_steps()) for name in accounts])
    for letter, run in zip("ABC", runs, strict=True):
        assert run["devices"].split() == ["mediumx", "tape"]
        for step in ("before", "after"):
            assert "Storage Changer" in run[step] and ":1 Drives, 21 Slots ( 1 Import/Export )" in run[step]
            assert full(run, step) == [f"Storage Element {n}:Full :VolumeTag={letter}0000{n}L6" for n in (1, 2, 3)]
        loaded = f"Data Transfer Element 0:Full (Storage Element 1 Loaded):VolumeTag = {letter}00001L6"
        assert loaded in full(run, "loaded")
        assert run["back up"] == "same\n"
        others = {"A0000", "B0000", "C0000"} - {f"{letter}0000"}
        assert not any(other in outcome.output for other in others for outcome in run.outcomes.values())


def slice_steps() -> list[Step]:
    return [
        Step("devices", "lsscsi | awk '{ print $2 }'"),
        Step("before", LOOK),
        Step("a tree", TREE),
        Step("load", "mtx -f $CHANGER load 1 0"),
        Step("loaded", LOOK),
        Step("all are there", "host together"),
        Step("back up", BACK_UP),
        Step("unload", "mt -f $TAPE0 offline && mtx -f $CHANGER unload 1 0"),
        Step("after", LOOK),
    ]


def full(run: GuestRun, step: str) -> list[str]:
    """The lines of `mtx status` of elements that are full."""
    return [line.strip() for line in run[step].splitlines() if ":Full" in line]


# ---- in turns --------------------------------------------------------------------------------------------------------

# The robot is reserved first, so that nobody waits for a drive while others wait for the robot. Whoever has it goes on
# when all have tried.
INSIST = """
once() { "$@" >/tmp/said 2>&1; local status=$?; host together; return $status; }
insist() { until "$@" >/tmp/said 2>&1; do echo waited; sleep 0.2; done; }
reserve() { once "$@" $CHANGER $BYTES || { echo waited; insist "$@" $CHANGER $BYTES; }; insist "$@" $TAPE0_SG $BYTES; }
"""
RESERVE = f"""{INSIST}
BYTES="16 00 00 00 00 00" reserve sg_raw
"""
RELEASE = "for device in $TAPE0_SG $CHANGER; do sg_raw $device 17 00 00 00 00 00; done"
RESERVE_PERSISTENTLY = f"""{INSIST}
for device in $CHANGER $TAPE0_SG; do insist sg_persist --out --register --param-sark=$KEY $device; done
reserve sg_persist --out --reserve --param-rk=$KEY --prout-type=3
"""
RELEASE_PERSISTENTLY = """
for device in $TAPE0_SG $CHANGER; do
	sg_persist --out --release --param-rk=$KEY --prout-type=3 $device
	sg_persist --out --register --param-rk=$KEY $device
done
"""
WAYS = {"RESERVE": (RESERVE, RELEASE), "persistent": (RESERVE_PERSISTENTLY, RELEASE_PERSISTENTLY)}
# What the kernel writes down of a command that met a reservation.
WAITING = r"(ch|st) \S+ (reservation conflict|tag#\d+ (UNKNOWN|CDB))"


def turns(slot: int, drive: int) -> list[Step]:
    """In each way: all want the robot at the same moment; who has it loads its cartridge, backs up and puts it back."""
    steps = [Step("a tree", f"{TREE}; KEY=0x{slot}")]
    for name, (reserve, release) in WAYS.items():
        steps += [
            Step(f"{name}: all are there", "host together"),
            Step(f"{name}: reserve", reserve),
            Step(f"{name}: load", f"mtx -f $CHANGER load {slot} {drive}"),
            Step(f"{name}: back up", BACK_UP),
            Step(f"{name}: look", LOOK),
            Step(f"{name}: unload", f"mt -f $TAPE0 offline && mtx -f $CHANGER unload {slot} {drive}"),
            Step(f"{name}: release", release),
        ]
    return steps


def check_turns(library: Worked, runs: Sequence[GuestRun], waiting: int) -> None:
    """waiting: how many servers at least had to wait, each time."""
    assert library.call("reservation.list") == []
    for name in WAYS:
        assert all(run[f"{name}: back up"] == "same\n" for run in runs)
        waits = [run[f"{name}: reserve"].count("waited") for run in runs]
        assert sum(count > 0 for count in waits) >= waiting, f"{name}: {waits}"


def test_three_servers_take_turns_at_one_robot(tmp_path: Path) -> None:
    """Figures 1 and 3: a drive for each, one robot for all, by RESERVE and by PERSISTENT RESERVE OUT."""
    packages.require(*PACKAGES, "mtx", "mt-st", "sg3-utils")
    with Worked(tmp_path, "three-servers") as library:
        library.call("cartridge.create", barcode="TRN001L6", count=3)
        names = [account.user for account in library.settings.chap.accounts]
        assert len(names) == 3
        servers = [(Server(initiator(name), 3, name), turns(n + 1, n)) for n, name in enumerate(names)]
        runs = run_together(library, servers, allowed=WAITING)
        check_turns(library, runs, waiting=2)
        assert [row["place"] for row in library.call("cartridge.list")] == ["slot:1", "slot:2", "slot:3"]


def test_two_platforms_two_zones_two_libraries(tmp_path: Path) -> None:
    """Figure 5: in each zone two servers take turns at its robot and drive; the other zone does not concern them."""
    packages.require(*PACKAGES, "mtx", "mt-st", "sg3-utils")
    with Worked(tmp_path, "two-platforms") as library:
        for letter in "UW":
            library.call("cartridge.create", barcode=f"{letter}00001L6", count=2)
        names = [account.user for account in library.settings.chap.accounts]
        assert names == ["unix-1", "unix-2", "windows-1", "windows-2"]
        servers = [(Server(initiator(name), 2, name), turns(int(name[-1]), 0)) for name in names]
        runs = run_together(library, servers, allowed=WAITING)
        for zone in (runs[:2], runs[2:]):
            check_turns(library, zone, waiting=1)
        for name, run in zip(names, runs, strict=True):
            own, other = ("U0000", "W0000") if name.startswith("unix") else ("W0000", "U0000")
            assert own in run["persistent: look"]
            assert not any(other in outcome.output for outcome in run.outcomes.values())


# ---- one server arranges for another ---------------------------------------------------------------------------------


def test_one_server_registers_another_and_moves_the_reservation_to_it(tmp_path: Path) -> None:
    """Figure 4, with sg_persist: REGISTER with SPEC_I_PT by initiator name, REGISTER AND MOVE by port name."""
    packages.require(*PACKAGES, "sg3-utils")
    second = initiator("second")
    port_of_second = f"$(sg_persist --in --read-full-status $TAPE0_SG | grep -o '{second},i,0x[0-9a-f]*' | head -1)"
    keys = Step("keys", "sg_persist --in --read-keys $TAPE0_SG")
    arranging = [
        Step("both are there", "host together"),
        Step("unit attention", "sg_turs $TAPE0_SG; true"),
        Step("register", f"sg_persist --out --register --param-sark=1 --transport-id={second} $TAPE0_SG"),
        keys,
        Step("reserve", "sg_persist --out --reserve --param-rk=1 --prout-type=3 $TAPE0_SG"),
        Step("shut out", "host together && host together"),
        Step("its port", f"PORT={port_of_second}; echo $PORT"),
        Step(
            "move",
            "sg_persist --out --register-move --param-rk=1 --param-sark=2 --relative-target-port=1 --unreg "
            "--transport-id=$PORT $TAPE0_SG",
        ),
        Step("moved", "host together && host together"),
    ]
    arranged = [
        Step("both are there", "host together"),
        Step("unit attention", "sg_turs $TAPE0_SG; true"),
        Step("reserved by the first", "host together"),
        Step("not yet", "sg_raw --request=8 $TAPE0_SG 1a 00 3f 00 08 00", status=24),
        Step("move it", "host together && host together"),
        keys,
        Step("now", "sg_raw --request=8 $TAPE0_SG 1a 00 3f 00 08 00"),
        Step("release", "sg_persist --out --release --param-rk=2 --prout-type=3 $TAPE0_SG"),
        Step("unregister", "sg_persist --out --register --param-rk=2 $TAPE0_SG"),
        Step("done", "host together"),
    ]
    with Worked(tmp_path, "reserved-device") as library:
        servers = [(Server(initiator("first"), 3), arranging), (Server(second, 3), arranged)]
        one, other = run_together(library, servers, allowed=WAITING)
        assert library.call("reservation.list") == []
    assert "2 registered reservation keys follow" in one["keys"], one["keys"]
    assert one["its port"].startswith(f"{second},i,0x")
    assert "0x2" in other["keys"] and "0x1" not in other["keys"]
