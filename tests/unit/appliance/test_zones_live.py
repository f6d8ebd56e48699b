"""Zones that come, change and go while initiators are logged in: only those concerned notice."""

# ruff: noqa: F401, F811 (a fixture of another module)

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from appliance.failures import Failure, OperatorError
from datamover.initiator import Credentials, InitiatorError, InitiatorSession
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_live_changes import (
    LUNS_CHANGED,
    Device,
    daemon,
    ended,
    eventually,
    luns,
    settle,
    tapebay,
)
from vlib_images.library.database import events
from vlib_images.library.database.database import FILE_NAME, Database

ALICE, BOB, EVE = (f"iqn.1993-08.org.debian:{name}" for name in ("alice", "bob", "eve"))


def log_in(daemon: Daemon, initiator: str, credentials: Credentials | None = None) -> InitiatorSession:
    iqn = daemon.call("target.list")[0]["iqn"]
    portal = daemon.wait_ready()["portals"][0]
    return InitiatorSession(portal, iqn, initiator_name=initiator, credentials=credentials, timeout_seconds=60)


def settled(session: InitiatorSession) -> list[int]:
    found = luns(session)
    for lun in found:
        settle(Device(session, lun))
    return found


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


def test_the_first_zone_closes_the_library(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    assert luns(alice) == [0, 1, 2, 3]
    made = tapebay(daemon, "zone", "create", "hers", "--initiators", ALICE, "--devices", "changer,drive1")
    assert "changer, drive1" in made.stdout
    eventually(lambda: luns(alice) == [0, 2])
    assert settle(Device(alice, 2)) == [LUNS_CHANGED]
    result = Device(alice, 1).command(bytes(6))
    assert (result.sense[2] & 0x0F, result.sense[12], result.sense[13]) == (5, 0x25, 0)
    eventually(lambda: ended(bob))
    with pytest.raises(InitiatorError):
        log_in(daemon, EVE)


def test_only_those_concerned_are_told(daemon: Daemon, alice: InitiatorSession, bob: InitiatorSession) -> None:
    daemon.call("zone.create", name="both", initiators=f"{ALICE},{BOB}", devices="changer,drive0,drive1,one")
    daemon.call("zone.create", name="his", initiators=BOB, devices="drive0")
    settled(alice)
    settled(bob)
    daemon.call("zone.change", name="both", initiators=ALICE)
    eventually(lambda: luns(bob) == [1])
    assert settle(Device(bob, 1)) == [LUNS_CHANGED]
    assert [settle(Device(alice, lun)) for lun in (0, 1, 2, 3)] == [[], [], [], []], "nothing changed for her"
    daemon.call("zone.change", name="his", luns="9=one")
    eventually(lambda: luns(bob) == [1, 9])
    assert [settle(Device(alice, lun)) for lun in (0, 1, 2, 3)] == [[], [], [], []]


def test_accounts_of_zones(daemon: Daemon) -> None:
    daemon.call("account.create", user="payroll", secret="twelve chars")
    daemon.call("account.create", user="science", secret="other twelve")
    daemon.call("zone.create", name="money", accounts="payroll", devices="drive0")
    daemon.call("zone.create", name="knowledge", accounts="science", devices="drive1,one")
    with (
        log_in(daemon, ALICE, Credentials("payroll", "twelve chars")) as payroll,
        log_in(daemon, ALICE.replace("alice", "other"), Credentials("science", "other twelve")) as science,
    ):
        assert (luns(payroll), luns(science)) == ([1], [2, 3])
    with pytest.raises(InitiatorError):
        log_in(daemon, ALICE)
    with pytest.raises(OperatorError, match="zone money: there is no account 'payroll'") as refused:
        daemon.call("account.delete", user="payroll")
    assert "tapebay zone change money --remove-accounts payroll" in str(refused.value)
    with pytest.raises(OperatorError, match="zone knowledge: there is no device 'one'") as refused:
        daemon.call("disk.remove", name="one")
    assert "tapebay zone change knowledge --remove-devices one" in str(refused.value)
    daemon.call("zone.change", name="knowledge", remove_devices="one")
    daemon.call("disk.remove", name="one")


def test_a_dry_run_of_an_account_says_whose_session_would_end(daemon: Daemon, alice: InitiatorSession) -> None:
    foreseen = daemon.call("account.create", user="payroll", secret="twelve chars", dry_run=True)["foreseen"]
    assert [(one["initiator"], bool(one["ends"])) for one in foreseen["sessions"]] == [(ALICE, True)]
    assert daemon.call("account.list") == [] and luns(alice)
    daemon.call("account.create", user="payroll", secret="twelve chars", initiator=BOB)
    daemon.call("account.create", user="science", secret="other twelve", initiator=ALICE)
    with log_in(daemon, ALICE, Credentials("science", "other twelve")) as science:
        foreseen = daemon.call("account.delete", user="science", initiator=ALICE, dry_run=True)["foreseen"]
        assert [one["initiator"] for one in foreseen["sessions"]] == [ALICE]
        assert "has not proved an account" in foreseen["sessions"][0]["ends"]
        assert luns(science) and len(daemon.call("account.list")) == 2
        assert daemon.call("account.delete", user="payroll", initiator=BOB)["foreseen"] is None


def test_who_sees_what_and_why(daemon: Daemon) -> None:
    daemon.call("zone.create", name="hers", initiators="*:alice", devices="drive1")
    (hers,), (eves,) = daemon.call("who", initiator=ALICE), daemon.call("who", initiator=EVE)
    assert (hers["luns"], hers["zones"], hers["admitted"]) == ({"2": "drive1"}, ["hers"], True)
    assert (eves["luns"], eves["admitted"], eves["reasons"]) == ({}, False, [f"no zone names initiator {EVE}"])
    shown = tapebay(daemon, "who", ALICE).stdout
    assert "2 drive1" in shown and f"zone hers names initiator {ALICE}" in shown
    daemon.call("account.create", user="payroll", secret="twelve chars")
    (answer,) = json.loads(tapebay(daemon, "who", ALICE, "--json").stdout)
    assert (answer["principal"], answer["admitted"]) == ("account payroll", False)


def test_what_a_zone_verb_refuses(daemon: Daemon) -> None:
    daemon.call("zone.create", name="only", initiators=ALICE, devices="drive0")
    for failure, method, parameters in (
        (Failure.REFUSED, "zone.create", {"name": "only"}),
        (Failure.NOT_FOUND, "zone.show", {"name": "other"}),
        (Failure.USAGE, "zone.create", {"name": "Bad Name"}),
        (Failure.USAGE, "zone.change", {"name": "only", "luns": "drive0"}),
        (Failure.USAGE, "zone.change", {"name": "only", "luns": "1=drive0,1=drive1"}),
        (Failure.USAGE, "zone.change", {"name": "only", "initiators": "alice"}),
        (Failure.REFUSED, "zone.change", {"name": "only", "devices": "tape"}),
        (Failure.REFUSED, "zone.delete", {"name": "only"}),
    ):
        with pytest.raises(OperatorError) as caught:
            daemon.call(method, **parameters)
        assert caught.value.failure is failure, (method, parameters, str(caught.value))
    assert daemon.call("zone.show", name="only")["devices"] == ["drive0"]
    daemon.call("zone.delete", name="only", open=True)
    assert daemon.call("zone.list") == []


def test_the_file_declares_zones_and_never_brings_one_back(daemon: Daemon) -> None:
    path = daemon.directory / "tapebay.toml"
    for name, initiator in (("hers", ALICE), ("his", BOB)):
        path.write_text(
            path.read_text() + f'[[zones]]\nname = "{name}"\ninitiators = ["{initiator}"]\ndevices = ["one"]\n'
        )
    assert "+ zone hers: devices ['one'], initiators" in "\n".join(daemon.call("configuration.plan")["changes"])
    daemon.call("configuration.apply")
    assert [zone["name"] for zone in daemon.call("zone.list")] == ["hers", "his"]
    daemon.call("zone.delete", name="hers")
    assert daemon.call("configuration.apply")["changes"] == []
    assert [zone["name"] for zone in daemon.call("zone.list")] == ["his"]
    assert '[[zones]]\nname = "his"' in daemon.call("configuration.show")["toml"]
    assert daemon.stop() == 0
    with closing(Database.open(daemon.directory / "state" / FILE_NAME)) as database, database.read() as connection:
        told = [(event.actor, event.action) for event in events.latest(connection, 10) if event.subject == "hers"]
    assert told == [("operator", "zone removed"), ("operator", "zone added")]
