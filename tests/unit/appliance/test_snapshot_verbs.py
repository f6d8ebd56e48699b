"""Snapshots by verb, command line and a real initiator with a key, in a daemon that is stopped, killed and started."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.snapshots.block_list import digest_of
from appliance.operations import setup
from datamover.initiator import CommandResult, Credentials, InitiatorSession
from scsi_targets.t10 import sbc
from tests.support.waiting import eventually
from tests.unit.appliance.daemon_process import ROOT, Daemon
from vlib_images.disk.snapshot_store import CHUNK_BYTES

GATE = "iqn.2026-11.io.tapebay:gate"
HOST = "iqn.1993-08.org.debian:host"
MIB = 1 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    plan = setup.plan(
        tmp_path, portal="127.0.0.1:0", advertise=None, name="lib", drives=1, slots=4, import_export=0,
        changer_model=None, drive_model=None, demo=False,
    )  # fmt: skip
    setup.create(tmp_path, plan, lambda _done, _total: None)
    with (tmp_path / "tapebay.toml").open("a") as settings:
        settings.write(f'\n[gate]\ntarget = "{GATE}"\n')
    return tmp_path


@pytest.fixture
def daemon(directory: Path) -> Iterator[Daemon]:
    started = Daemon(directory)
    try:
        started.wait_ready()
        for name in ("data", "log"):
            started.call("disk.create", name=name, size="8 MiB")
            with host(started) as session:
                for at in range(8):
                    write(session, at * 2048, bytes([at + 1]) * MIB, lun=lun_of(started, name))
        yield started
    finally:
        started.stop()


def lun_of(daemon: Daemon, name: str) -> int:
    luns = daemon.call("target.list")[0]["luns"]
    return next(int(lun) for lun, device in luns.items() if device == name)


def host(daemon: Daemon) -> InitiatorSession:
    ready = daemon.wait_ready()
    return InitiatorSession(ready["portals"][0], ready["targets"][0], initiator_name=HOST)


def command(
    session: InitiatorSession, lun: int, cdb: bytes, data: bytes | None = None, length: int = 0
) -> CommandResult:
    """Its result; unit attentions of the login and of what operators changed are heard first."""
    for _ in range(5):
        result = session.command(lun, cdb, data, length, timeout_seconds=60)
        if result.status != 2 or result.sense[2] & 0xF != 6:
            break
    return result


def write(session: InitiatorSession, block: int, data: bytes, lun: int) -> CommandResult:
    cdb = sbc.Write16.encode(logical_block_address=block, transfer_length=len(data) // 512)
    return command(session, lun, cdb, data)


def read(session: InitiatorSession, block: int, lun: int, count: int = 1) -> CommandResult:
    cdb = sbc.Read16.encode(logical_block_address=block, transfer_length=count)
    return command(session, lun, cdb, None, count * 512)


def sense_of(result: CommandResult) -> tuple[int, int, int]:
    assert result.status == 2, result
    return result.sense[2] & 0xF, result.sense[12], result.sense[13]


def login(daemon: Daemon, device: str) -> tuple[InitiatorSession, int]:
    """A host that was granted a snapshot's unit, and the unit's LUN there."""
    request = daemon.call("request.create", initiator=HOST, device=[device])["request"]
    eventually(lambda: daemon.call("request.show", request=request)["state"] == "granted")
    made = daemon.call("request.show", request=request)
    grant = made["grant"]
    credentials = Credentials(grant["user"], grant["secret"], grant["mutual_user"], grant["mutual_secret"])
    session = InitiatorSession(grant["portals"][0], GATE, initiator_name=HOST, credentials=credentials)
    return session, made["units"][0]["lun"]


def cli(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "appliance", *arguments, "--config", str(daemon.directory)],
        capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def stores(daemon: Daemon) -> list[str]:
    folder = daemon.directory / "snapshots"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ---- the operator ----------------------------------------------------------------------------------------------------


def test_space_and_age_are_seen_live(daemon: Daemon) -> None:
    made = daemon.call("snapshot.create", disks="data,log", budget="4 MiB")
    assert (made["state"], made["budget_bytes"], made["stored_bytes"]) == ("held", 4 * MIB, 0)
    with host(daemon) as session:
        write(session, 0, b"n" * CHUNK_BYTES, lun=lun_of(daemon, "data"))
    seen = daemon.call("snapshot.show", snapshot=made["snapshot"])
    assert seen["stored_bytes"] == CHUNK_BYTES
    assert [disk["saved_bytes"] for disk in seen["disks"]] == [CHUNK_BYTES, 0]
    assert seen["disks"][0]["live_bytes"] == 8 * MIB - CHUNK_BYTES
    eventually(lambda: daemon.call("snapshot.list")[0]["age_seconds"] > seen["age_seconds"])
    (listed,) = daemon.call("snapshot.list")
    assert listed["age_seconds"] > seen["age_seconds"] >= 0
    assert listed["seconds_left"] < seen["seconds_left"] <= 86400
    assert daemon.call("snapshot.release", snapshot=made["snapshot"])["state"] == "released"
    (listed,) = daemon.call("snapshot.list")
    assert (listed["state"], listed["stored_bytes"], listed["seconds_left"]) == ("released", 0, None)
    assert stores(daemon) == []


def test_the_command_line(daemon: Daemon) -> None:
    assert "No snapshots" in cli(daemon, "snapshot", "list").stdout
    made = cli(daemon, "snapshot", "create", "data,log", "--budget", "4 MiB")
    name = made.stdout.partition(":")[0]
    assert made.stdout == f"{name}: data, log held, for 24.0 h at most, in 4 MiB\n", made
    lines = cli(daemon, "snapshot", "list").stdout.splitlines()
    assert lines[2].startswith(f"{name}  held   data, log")
    shown = cli(daemon, "snapshot", "show", name).stdout
    assert f"data@{name}" in shown
    as_json = json.loads(cli(daemon, "snapshot", "show", name, "--json").stdout)
    assert as_json["snapshot"] == name
    refused = cli(daemon, "disk", "remove", "data", "--yes")
    assert refused.returncode == 1
    assert f"release it first: tapebay snapshot release {name}" in refused.stderr
    released = cli(daemon, "snapshot", "release", name)
    assert released.stdout.startswith(f"{name}: released"), released
    assert cli(daemon, "disk", "remove", "data", "--yes").returncode == 0
    for arguments, status, words in (
        (("show", "0" * 16), 6, "there is no snapshot"),
        (("create", "none"), 6, "there is no disk none"),
        (("create", "log,log"), 2, "each named once"),
        (("create", "log", "--budget", "many"), 2, "many"),
        (("renew", name), 1, "released"),
    ):
        answer = cli(daemon, "snapshot", *arguments)
        assert (answer.returncode, words in answer.stderr) == (status, True), answer


def test_writes_of_every_kind_leave_the_instant(daemon: Daemon) -> None:
    made = daemon.call("snapshot.create", disks="data", budget="8 MiB")
    lun = lun_of(daemon, "data")
    with host(daemon) as session:

        def send(kind: Any, data: bytes = b"", **fields: Any) -> None:
            assert command(session, lun, kind.encode(**fields), data or None).status == 0

        unmap = bytes([0, 22, 0, 16, 0, 0, 0, 0]) + (4096).to_bytes(8, "big") + (2048).to_bytes(4, "big") + bytes(4)
        send(sbc.Write16, b"w" * 512, logical_block_address=7, transfer_length=1)
        send(sbc.WriteSame16, b"s" * 512, logical_block_address=2048, number_of_logical_blocks=300)
        send(sbc.Unmap, unmap, parameter_list_length=len(unmap))
        send(sbc.WriteAtomic16, b"a" * 4096, logical_block_address=8192, transfer_length=8)
        send(
            sbc.CompareAndWrite, bytes([6]) * 512 + b"c" * 512, logical_block_address=10240, number_of_logical_blocks=1
        )
        send(sbc.OrWrite16, b"o" * 512, logical_block_address=12288, transfer_length=1)
        daemon.call("disk.grow", name="data", size="16 MiB")
        send(sbc.Write16, b"g" * 512, logical_block_address=8 * 2048, transfer_length=1)
    snapshot, unit = login(daemon, made["disks"][0]["device"])
    with snapshot:
        capacity = command(snapshot, unit, sbc.ReadCapacity16.encode(allocation_length=32), None, 32).data
        assert int.from_bytes(bytes(capacity[:8]), "big") == 8 * 2048 - 1  # the size of the instant
        for at in range(8):
            assert bytes(read(snapshot, at * 2048, unit, 2048).data) == bytes([at + 1]) * MIB
    daemon.call("snapshot.release", snapshot=made["snapshot"])


# ---- the logical unit ------------------------------------------------------------------------------------------------


def test_its_unit_is_seen_by_grant_only_and_tells_itself_apart(daemon: Daemon) -> None:
    made = daemon.call("snapshot.create", disks="data,log", budget="1 MiB")
    report_luns = bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0])
    with host(daemon) as session:
        assert len(command(session, 0, report_luns, None, 1024).data) == 8 + 4 * 8  # changer, drive, two disks
        disk = command(session, lun_of(daemon, "data"), bytes([0x12, 1, 0x83, 1, 0, 0]), None, 256).data
    snapshot, unit = login(daemon, made["disks"][0]["device"])
    with snapshot:
        inquiry = bytes(command(snapshot, unit, bytes([0x12, 0, 0, 0, 96, 0]), None, 96).data)
        assert inquiry[8:32] == b"TAPEBAY DISK SNAPSHOT   "
        pages = command(snapshot, unit, bytes([0x12, 1, 0x83, 1, 0, 0]), None, 256).data
        assert bytes(pages[4:]) != bytes(disk[4:])
        assert bytes(read(snapshot, 0, unit).data) == b"\1" * 512
        assert sense_of(write(snapshot, 0, bytes(512), unit)) == (7, 0x27, 0)
        unmap = bytes([0, 22, 0, 16, 0, 0, 0, 0]) + bytes(11) + b"\1" + bytes(4)
        assert sense_of(command(snapshot, unit, sbc.Unmap.encode(parameter_list_length=24), unmap)) == (7, 0x27, 0)
        mode = command(snapshot, unit, bytes([0x1A, 0, 0x3F, 0, 192, 0]), None, 192).data
        assert mode[2] & 0x80  # WP: hosts mount it read-only
        assert len(command(snapshot, unit, report_luns, None, 1024).data) == 8 + 8
        daemon.call("snapshot.release", snapshot=made["snapshot"])
        eventually(lambda: len(command(snapshot, 0, report_luns, None, 1024).data) == 8)
        assert sense_of(read(snapshot, 0, unit)) == (5, 0x25, 0)


def test_a_broken_one_answers_with_a_medium_error_for_ever(daemon: Daemon) -> None:
    made = daemon.call("snapshot.create", disks="data", budget="1 MiB")
    snapshot, unit = login(daemon, made["disks"][0]["device"])
    with snapshot, host(daemon) as session:
        lun = lun_of(daemon, "data")
        assert write(session, 1024, b"n" * MIB, lun).status == 0
        assert bytes(read(snapshot, 1024, unit).data) == b"\1" * 512
        assert write(session, 4096, b"n" * MIB, lun).status == 0
        assert bytes(read(session, 4096, lun, 2048).data) == b"n" * MIB
        for _ in range(2):
            for block in (0, 4096, 8 * 2048 - 1):
                assert sense_of(read(snapshot, block, unit)) == (3, 0x11, 0)
        (seen,) = daemon.call("snapshot.list")
        assert (seen["state"], seen["stored_bytes"]) == ("broken", 0)
        assert f"its budget of {MIB} bytes is reached" in seen["reason"]
        assert sense_of(read(snapshot, 0, unit)) == (3, 0x11, 0)
    assert stores(daemon) == []


# ---- an agent's and a mover's signals --------------------------------------------------------------------------------


def test_the_signals_of_an_agent_and_a_mover(daemon: Daemon) -> None:
    made = daemon.call("snapshot.create", disks="data", agent=True, prepare=True)
    name = made["snapshot"]
    assert made["state"] == "freezing"
    assert daemon.call("snapshot.take", snapshot=name)["state"] == "held"
    rows = [("data", 0, 4096), ("data", 2 * MIB, MIB)]

    def tell(sender: str, number: int, what: str, **more: Any) -> dict[str, Any]:
        twice = [
            daemon.call("snapshot.signal", snapshot=name, sender=sender, number=number, signal=what, **more)
            for _ in range(2)
        ]
        for answer in twice:
            answer.update(age_seconds=0, seconds_left=0)
        assert twice[0] == twice[1]  # doubled, it has no other effect
        return twice[0]

    tell("agent", 1, "list-begin")
    with pytest.raises(OperatorError, match="send 2 first") as refused:
        tell("agent", 3, "list-part", extents={"data": [[0, 4096]]})
    assert refused.value.failure is Failure.REFUSED
    tell("agent", 2, "list-part", extents={"data": [[0, 4096]]})
    with pytest.raises(OperatorError, match="1 of its 2 extents came") as refused:
        tell("agent", 3, "list-end", count=2, digest=digest_of(name, rows))
    assert refused.value.failure is Failure.USAGE
    tell("agent", 3, "list-begin")
    tell("agent", 4, "list-part", extents={"data": [row[1:] for row in rows]})
    assert tell("agent", 5, "list-end", count=2, digest=digest_of(name, rows))["state"] == "listed"
    tell("application", 1, "accepted")
    assert tell("mover", 1, "started")["state"] == "copying"
    with pytest.raises(OperatorError, match="is not on disk data"):
        tell("mover", 2, "checkpoint", checkpoint=1, extents={"data": [[-512, 1024]]})
    seen = tell("mover", 2, "checkpoint", checkpoint=1, extents={"data": [[0, 4096]]})
    assert (seen["state"], seen["checkpoint"]) == ("copying", 1)
    seen = tell("mover", 3, "failed", segment=7, sense="70000300", reason="the drive failed")
    assert (seen["state"], seen["reason"]) == ("listed", "segment 7: the drive failed; sense data 70000300")
    tell("mover", 4, "started")
    assert tell("mover", 5, "done")["state"] == "committed"
    seen = tell("application", 2, "released")
    assert (seen["state"], seen["signals"]) == ("released", {"agent": 5, "application": 2, "mover": 5})
    assert stores(daemon) == []


# ---- the daemon's end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_ends_it_and_says_so_and_the_disk_is_whole(daemon: Daemon, how: signal.Signals) -> None:
    made = daemon.call("snapshot.create", disks="data", budget="8 MiB")
    with host(daemon) as session:
        write(session, 0, b"n" * MIB, lun=lun_of(daemon, "data"))
    daemon.stop(how)
    assert stores(daemon) == []
    again = Daemon(daemon.directory)
    try:
        again.wait_ready()
        assert again.call("snapshot.list") == []
        with pytest.raises(OperatorError, match="is broken: the appliance ended while it was held"):
            again.call("snapshot.show", snapshot=made["snapshot"])
        with host(again) as session:
            lun = lun_of(again, "data")
            assert bytes(read(session, 0, lun, 2048).data) == b"n" * MIB
            assert bytes(read(session, 2048, lun, 2048).data) == b"\2" * MIB
        later = again.call("snapshot.create", disks="data")
        session, unit = login(again, later["disks"][0]["device"])
        with session:
            assert bytes(read(session, 0, unit).data) == b"n" * 512
    finally:
        again.stop()


# ---- increments ------------------------------------------------------------------------------------------------------


def test_increments_across_a_clean_stop_and_none_that_is_unsure(daemon: Daemon) -> None:
    def mark(of: Daemon) -> tuple[str, str]:
        """(snapshot, mark), released."""
        made = of.call("snapshot.create", disks="data", increments=True)
        return made["snapshot"], made["disks"][0]["mark"]

    def changed(of: Daemon, since: str) -> list[list[int]]:
        name, _ = mark(of)
        found = of.call("snapshot.changes", snapshot=name, disk="data", since=since)
        assert found["next_offset"] is None
        of.call("snapshot.release", snapshot=name)
        return found["extents"]

    name, first = mark(daemon)
    daemon.call("snapshot.release", snapshot=name)
    with host(daemon) as session:
        write(session, 2048, b"n" * 512, lun=lun_of(daemon, "data"))
    assert changed(daemon, first) == [[MIB, CHUNK_BYTES]]
    with pytest.raises(OperatorError, match="is no mark"):
        changed(daemon, "yesterday")
    daemon.stop()
    again = Daemon(daemon.directory)
    try:
        again.wait_ready()
        with host(again) as session:
            write(session, 0, b"n" * 512, lun=lun_of(again, "data"))
        assert changed(again, first) == [[0, CHUNK_BYTES], [MIB, CHUNK_BYTES]]
        again.call("disk.grow", name="data", size="9 MiB")
        with pytest.raises(OperatorError, match="only a full copy will do: the disk has another size"):
            changed(again, first)
        _, second = mark(again)
        assert changed(again, second) == []
    finally:
        again.stop(signal.SIGKILL)
    third = Daemon(daemon.directory)
    try:
        third.wait_ready()
        with pytest.raises(OperatorError, match="the last daemon did not stop cleanly"):
            changed(third, second)
        name = third.call("snapshot.create", disks="log")["snapshot"]
        with pytest.raises(OperatorError, match="does not count the changes of log"):
            third.call("snapshot.changes", snapshot=name, disk="log", since=second)
    finally:
        third.stop()
