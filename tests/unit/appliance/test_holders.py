"""Who is logged in and holds what, and an operator who ends and breaks it."""

# ruff: noqa: F401, F811 (a fixture of another module)

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from datamover.initiator import Credentials, InitiatorError, InitiatorSession, TaskManagementOutcome
from scsi_targets.t10 import spc
from scsi_targets.t10.persistent_reservation import BasicParameterList
from tests.support import packages
from tests.support.waiting import eventually
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_live_changes import Device, daemon, settle, tapebay
from tests.unit.appliance.test_zones_live import ALICE, BOB, log_in, settled
from vlib_images.library.database.database import FILE_NAME

PREEMPTED, CONFLICT = (0x2A, 0x03), 0x18
KEY = 0x1122334455667788


@pytest.fixture
def alice(daemon: Daemon) -> Iterator[InitiatorSession]:
    with log_in(daemon, ALICE) as session:
        settled(session)
        yield session


@pytest.fixture
def bob(daemon: Daemon) -> Iterator[InitiatorSession]:
    with log_in(daemon, BOB) as session:
        settled(session)
        yield session


def reserve(device: Device) -> int:
    return device.command(spc.Reserve6.encode()).status


def register_and_reserve(device: Device, *, survives: bool = False) -> None:
    registered = BasicParameterList.encode(
        service_action_reservation_key=KEY, activate_persist_through_power_loss=survives
    )
    assert device.command(spc.Register.encode(parameter_list_length=24), registered).status == 0
    holding = BasicParameterList.encode(reservation_key=KEY)
    cdb = spc.ReservePersistent.encode(parameter_list_length=24, type=3)
    assert device.command(cdb, holding).status == 0


def audit(daemon: Daemon, action: str) -> list[tuple[str, str]]:
    """Who did it to what, by the audit record."""
    with closing(sqlite3.connect(daemon.directory / "state" / FILE_NAME)) as database:
        return database.execute("SELECT actor, subject FROM events WHERE action = ? ORDER BY id", [action]).fetchall()


def test_who_is_logged_in_and_what_it_holds(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    assert reserve(Device(alice, 1)) == 0
    register_and_reserve(Device(alice, 3))
    rows = daemon.call("session.list")
    hers, his = (next(row for row in rows if row["initiator"] == name) for name in (ALICE, BOB))
    assert (hers["holds"], his["holds"]) == (["drive0", "one"], [])
    assert (hers["principal"], hers["target"]) == (f"initiator {ALICE}", daemon.call("target.list")[0]["iqn"])
    assert hers["address"].startswith("127.0.0.1:") and hers["commands"] > 0 and hers["id"] != his["id"]
    assert daemon.call("session.show", id=hers["id"])["initiator"] == ALICE
    assert "drive0, one" in tapebay(daemon, "session", "list").stdout
    first, second = json.loads(tapebay(daemon, "reservation", "list", "--json").stdout)
    assert (first["device"], first["kind"], first["holder"]) == ("drive0", "reserve", True)
    assert (second["device"], second["kind"], second["type"]) == ("one", "reservation", "exclusive access")
    assert (second["key"], second["logged_in"], second["survives"]) == (f"{KEY:016x}", True, False)
    assert "exclusive access" in tapebay(daemon, "reservation", "list").stdout


def test_a_session_is_ended(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    drive = Device(bob, 1)
    assert reserve(Device(alice, 1)) == 0
    assert reserve(drive) == CONFLICT
    number = next(row["id"] for row in daemon.call("session.list") if row["initiator"] == ALICE)
    tapebay(daemon, "session", "end", number, "--yes")
    assert reserve(drive) == 0, "what it held is given back when the verb answers"
    with pytest.raises(InitiatorError):
        alice.command(0, bytes(6), None, 0)
    with pytest.raises(OperatorError) as caught:
        daemon.call("session.end", id=number)
    assert caught.value.failure is Failure.NOT_FOUND
    assert [row["initiator"] for row in daemon.call("session.list")] == [BOB]
    assert audit(daemon, "session ended") == [("operator", str(number))]


def test_a_reservation_is_broken(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    mine, disk = Device(alice, 3), Device(bob, 3)
    register_and_reserve(mine)
    assert disk.command(spc.Reserve6.encode()).status == CONFLICT
    for parameters in ({"device": "drive9"}, {"device": "drive0"}, {"device": "one", "initiator": BOB}):
        with pytest.raises(OperatorError) as caught:
            daemon.call("reservation.break", **parameters)
        assert caught.value.failure is Failure.NOT_FOUND
    assert "the reservation of" in tapebay(daemon, "reservation", "break", "one", "--yes").stdout
    assert disk.command(spc.Reserve6.encode()).status == 0
    assert reserve(mine) == CONFLICT, "a reservation comes before the unit attention"
    assert [row["kind"] for row in daemon.call("reservation.list")] == ["reserve"]
    daemon.call("reservation.break", device="one", initiator=BOB.upper())
    assert daemon.call("reservation.list") == []
    assert settle(disk) == settle(mine) == [PREEMPTED]
    assert reserve(mine) == 0
    assert [line["event"] for line in daemon.log].count("reservations are broken by an operator") == 2
    assert audit(daemon, "reservations broken") == [("operator", "one"), ("operator", "one")]


def test_the_reservation_of_a_dead_server_outlives_the_daemon_until_it_is_broken(tmp_path: Path) -> None:
    """APTPL: kept when the server dies and when the daemon is killed; once broken, it does not come back."""
    packages.require("libiscsi7")
    setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", disks=[("one", "1 MiB")]))
    again = Daemon(tmp_path / "lib")
    try:
        again.wait_ready()
        dead = log_in(again, ALICE)
        settled(dead)
        register_and_reserve(Device(dead, 3), survives=True)
        dead.close()
        again.stop(signal.SIGKILL)
        again = Daemon(again.directory)
        again.wait_ready()
        with log_in(again, BOB) as bob:
            settled(bob)
            disk = Device(bob, 3)
            assert reserve(disk) == CONFLICT
            assert bob.logical_unit_reset(3) == TaskManagementOutcome.FUNCTION_COMPLETE
            settle(disk)
            assert reserve(disk) == CONFLICT, "a reset releases RESERVE, not a persistent reservation"
            (held,) = again.call("reservation.list")
            assert (held["initiator"], held["logged_in"], held["survives"]) == (ALICE, False, True)
            again.call("reservation.break", device="one", initiator=ALICE)
            assert reserve(disk) == 0
        again.stop(signal.SIGKILL)
        again = Daemon(again.directory)
        again.wait_ready()
        assert again.call("reservation.list") == []
        assert audit(again, "reservations broken") == [("operator", "one")]
    finally:
        again.stop()


def test_wrong_proofs_from_one_address_are_refused_without_a_look(daemon: Daemon) -> None:
    daemon.call("account.create", user="backup", secret="twelve chars")
    for _ in range(10):
        with pytest.raises(InitiatorError):
            log_in(daemon, ALICE, Credentials("backup", "wrong secret"))
    with pytest.raises(InitiatorError):
        log_in(daemon, ALICE, Credentials("backup", "twelve chars"))
    eventually(lambda: any("too many logins have failed" in str(line.get("reason")) for line in daemon.log))
    assert "twelve chars" not in str(daemon.log) and "wrong secret" not in str(daemon.log)
