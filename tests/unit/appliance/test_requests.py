"""From a request to a drive with a key and back, in a daemon, with a real initiator."""

import errno
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.access.caller import Caller, Scope
from appliance.access.keys import tag_hash
from appliance.broker.broker import BrokerDown
from appliance.broker.requests import MOST_OVER, READ, WRITE, NoSuchRequest, Request, RequestedUnit, Requests, Wanted
from appliance.broker.selection import matched
from appliance.broker.states import TRANSITIONS, RequestState, RequestStateError, RequestStep, after
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.library.library import Library
from appliance.operations import VERBS, setup
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from appliance.web.metrics import Exposition
from datamover.initiator import CommandResult, Credentials, InitiatorError, InitiatorSession
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.identity import Identity
from tests.support import packages
from tests.support.database import new_database, open_again
from tests.support.scsi import read_10, write_10
from tests.support.waiting import becomes, eventually
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.test_live_changes import luns
from vlib_images.cartridge.medium import MEDIA
from vlib_images.disk.memory import MemoryImage
from vlib_images.library.actor import acting_as
from vlib_images.library.database import events
from vlib_images.library.database.database import Database

GATE = "iqn.2026-11.io.tapebay:gate"
HOST, OTHER = "iqn.1993-08.org.debian:host", "iqn.1993-08.org.debian:other"
ISID = (0xABCDEF, 7)
SCRATCH = (Wanted(),)
WRITE_BLOCK = bytes([0x0A, 0, 0, 2, 0, 0])  # WRITE(6), 512 bytes
REWIND, READ_BLOCK = bytes([1, 0, 0, 0, 0, 0]), bytes([8, 0, 0, 2, 0, 0])
READY, RESERVE, PREVENT = bytes(6), bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x1E, 0, 0, 0, 1, 0])
INQUIRY, CONFLICT = bytes([0x12, 0, 0, 0, 36, 0]), 0x18


def move_medium(source: int, destination: int) -> bytes:
    return bytes([0xA5, 0, 0, 0, *source.to_bytes(2, "big"), *destination.to_bytes(2, "big"), 0, 0, 0, 0])


# ---- the table and the rows ------------------------------------------------------------------------------------------


def test_every_state_is_reached_and_none_is_a_dead_end() -> None:
    reached = {RequestState.QUEUED} | {state for steps in TRANSITIONS.values() for state in steps.values()}
    assert reached == set(RequestState)
    assert {state for state in RequestState if state.over} == {
        RequestState.DONE,
        RequestState.CANCELLED,
        RequestState.FAILED,
    }
    for state in RequestState:
        for step in RequestStep:
            if step not in TRANSITIONS[state]:
                with pytest.raises(RequestStateError):
                    after(state, step)


def test_each_step_is_kept_with_its_event(tmp_path: Path) -> None:
    database = new_database(tmp_path)
    requests = Requests(database)
    with acting_as("token backup"):
        made = requests.create(HOST, SCRATCH, lease_seconds=60)
    assert made.owner == "token backup"
    requests.step(made.name, RequestStep.WARRANT)
    units = (RequestedUnit(1, "drive0", WRITE, "A00001L6"), RequestedUnit(128, "disk0@1", READ))
    placed = requests.step(made.name, RequestStep.PLACE, units=units, key_expires_at_ms=5)
    with pytest.raises(RequestStateError):
        requests.step(made.name, RequestStep.FREE)
    with pytest.raises(NoSuchRequest):
        requests.step("0" * 16, RequestStep.FREE)
    assert Requests(open_again(tmp_path)).all() == [placed]
    with database.read() as connection:
        told = [(event.action, event.subject) for event in reversed(events.latest(connection, 10))]
    assert told == [(f"request {what}", made.name) for what in ("made", "warranted", "placed")]


def test_those_that_are_over_do_not_pile_up(tmp_path: Path) -> None:
    requests = Requests(new_database(tmp_path))
    for _ in range(MOST_OVER + 5):
        requests.step(requests.create(HOST, SCRATCH, lease_seconds=60).name, RequestStep.CANCEL)
    assert len(requests.all()) == len(Requests(open_again(tmp_path)).all()) == MOST_OVER


def test_devices_are_matched_so_that_everything_wanted_has_one() -> None:
    assert matched([["a", "b"], ["a"]]) == ["b", "a"]
    assert matched([["a", "b"], ["a", "b"], ["b", "c"]]) == ["a", "b", "c"]
    assert matched([["a"], ["a"]]) is None
    assert matched([["a", "b"], ["b", "c"], ["c", "a"], ["a", "b", "c"]]) is None
    crowded = matched([["a", "b", "c", "d"]] * 3 + [["a"]])
    assert crowded is not None and sorted(crowded) == ["a", "b", "c", "d"] and crowded[3] == "a"


# ---- the whole way ---------------------------------------------------------------------------------------------------


def library(tmp_path: Path) -> Path:
    packages.require("libiscsi7")
    directory = tmp_path / "lib"
    setup.create(directory, setup.plan(directory, portal="127.0.0.1:0", slots=4))
    with (directory / "tapebay.toml").open("a") as settings:
        settings.write(f'\n[gate]\ntarget = "{GATE}"\n')
    return directory


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(library(tmp_path))
    try:
        daemon.wait_ready()
        daemon.call("cartridge.create", barcode="A00001L6", count=2)
        yield daemon
    finally:
        status = daemon.stop()
        print(*daemon.log, sep="\n")
        assert status == 0
    assert not [line for line in daemon.log if line.get("level") == "error"], daemon.log


@contextmanager
def serving(directory: Path) -> Iterator[Library]:
    """A library in this process."""
    served = Library.open(config_file.load(directory / "tapebay.toml"))
    try:
        served.start()
        files = served.files
        files.cartridges.create_all({f"A0000{number}L6": MEDIA["LTO-6"] for number in (1, 2)}, None)
        for _ in served.robot.add_all([(f"A0000{n}L6", files.inventory.layout.storage[n - 1]) for n in (1, 2)]):
            pass
        yield served
    finally:
        served.stop()
        served.close()


LEASE_SECONDS = 60


@contextmanager
def stopped_clock(served: Library) -> Iterator[list[float]]:
    """The broker's clock, which goes on when the test says so."""
    now, broker = [1000.0], served.broker
    assert broker is not None
    broker._clock = lambda: now[0]
    yield now


def granted_here(served: Library, *wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """A request of a library in this process, once it is granted, and what its host logs in with."""
    broker = served.broker
    assert broker is not None
    made = broker.ask(HOST, wanted or SCRATCH, lease_seconds=LEASE_SECONDS)
    eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
    key = broker.key(broker.requests.get(made.name))
    assert key is not None
    grant = {"user": key.name, "secret": key.secret, "mutual_user": GATE, "mutual_secret": key.mutual_secret}
    return made.name, {**grant, "portals": served.bound}


def state(daemon: Daemon, request: str) -> str:
    found: str = daemon.call("request.show", request=request)["state"]
    return found


def granted(daemon: Daemon, **options: Any) -> dict[str, Any]:
    made = daemon.call("request.create", initiator=HOST, **options)
    eventually(lambda: state(daemon, made["request"]) == "granted")
    found: dict[str, Any] = daemon.call("request.show", request=made["request"])
    return found


def holds(request: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(unit["device"], unit["cartridge"]) for unit in request["units"]]


def over(daemon: Daemon, request: str) -> dict[str, Any]:
    eventually(lambda: state(daemon, request) in ("done", "failed", "cancelled"))
    found: dict[str, Any] = daemon.call("request.show", request=request)
    assert found["grant"] is None
    return found


def login(grant: dict[str, Any], host: str = HOST, isid: tuple[int, int] = ISID) -> InitiatorSession:
    proof = Credentials(grant["user"], grant["secret"], grant["mutual_user"], grant["mutual_secret"])
    return InitiatorSession(
        grant["portals"][0], GATE, initiator_name=host, credentials=proof, timeout_seconds=60, isid=isid
    )


def command(
    session: InitiatorSession, lun: int, cdb: bytes, data: bytes | None = None, length: int = 0
) -> CommandResult:
    """Past the unit attentions."""
    while (result := session.command(lun, cdb, data, length)).status == 2 and result.sense[2] & 0xF == 6:
        pass
    return result


def test_a_drive_with_a_blank_volume_and_back(daemon: Daemon) -> None:
    request = granted(daemon)
    assert holds(request) == [("drive0", "A00001L6")]
    with login(request["grant"]) as session:
        assert command(session, 1, READY).status == 0
        assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
        assert session.command(2, READY).sense[12] == 0x25  # the other drive is not there
        with pytest.raises(InitiatorError):
            login(request["grant"], "iqn.1993-08.org.debian:other")
    daemon.call("grant.release", request=request["request"])
    assert over(daemon, request["request"])["state"] == "done"
    with pytest.raises(InitiatorError):
        login(request["grant"])
    assert {row["barcode"]: row["place"] for row in daemon.call("cartridge.list")}["A00001L6"] == "slot:1"
    again = granted(daemon, volume=["A00001L6"], read_only=True)
    with login(again["grant"]) as session:
        result = command(session, 1, READ_BLOCK, None, 512)
        assert (result.status, bytes(result.data)) == (0, b"t" * 512)
        refused = command(session, 1, WRITE_BLOCK, b"u" * 512)
        assert (refused.status, refused.sense[2] & 0xF, refused.sense[12], refused.sense[13]) == (2, 5, 0x20, 2)
    assert holds(granted(daemon))[0][1] == "A00002L6"  # the other one is not blank any more


def test_what_happens_to_a_request_is_told_as_it_happens(daemon: Daemon) -> None:
    client = Client.at_socket(daemon.directory / "tapebay.sock")
    request = granted(daemon)["request"]
    happened, told = client.events(request, timeout_seconds=30), []
    assert next(happened) is None
    daemon.call("grant.release", request=request)
    while "request drive freed" not in [action for action, _ in told]:
        if (event := next(happened)) is not None:
            told.append((event["action"], event["subject"]))
    assert told == [("request ended", request), ("request drive freed", request)]


def test_several_drives_in_one_request_are_had_together_or_not_at_all(daemon: Daemon) -> None:
    first = granted(daemon)
    both = daemon.call("request.create", initiator=HOST, volume=["A00002L6"], scratch=1)["request"]
    assert eventually(lambda: daemon.call("request.show", request=both)["why"])
    assert holds(daemon.call("request.show", request=both)) == []  # the drive that is free is not kept for it
    daemon.call("grant.release", request=first["request"])
    eventually(lambda: state(daemon, both) == "granted")
    request = daemon.call("request.show", request=both)
    assert sorted(holds(request)) == [("drive0", "A00002L6"), ("drive1", "A00001L6")]
    with login(request["grant"]) as session:
        assert [command(session, lun, READY).status for lun in (1, 2)] == [0, 0]
        for lun in (1, 2):
            assert command(session, lun, WRITE_BLOCK, b"t" * 512).status == 0
    daemon.call("grant.release", request=both)
    assert over(daemon, both)["state"] == "done"
    places = {row["barcode"]: row["place"] for row in daemon.call("cartridge.list")}
    assert places == {"A00001L6": "slot:1", "A00002L6": "slot:2"}


def test_a_device_that_only_grants_show(tmp_path: Path) -> None:
    directory = library(tmp_path)
    with serving(directory) as served:
        disk = BlockDevice(Identity("TAPEBAY", "SNAPSHOT", "0100", "SNAP0001"), MemoryImage(1 << 20), read_only=True)
        lun = served.offer("disk0@monday", disk)
        with pytest.raises(ValueError, match="there is a device"):
            served.offer("disk0@monday", disk)
        broker = served.broker
        assert broker is not None and served.gate is not None
        wanted = (Wanted(write=False, device="disk0@monday"), Wanted())
        made = broker.ask(HOST, wanted, lease_seconds=60)
        with InitiatorSession(served.bound[0], served.settings.targets[0].iqn, initiator_name=HOST) as session:
            assert lun not in luns(session)
        eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
        key = broker.key(broker.requests.get(made.name))
        assert key is not None
        grant = {"user": key.name, "secret": key.secret, "mutual_user": GATE, "mutual_secret": key.mutual_secret}
        with login({**grant, "portals": served.bound}) as session:
            assert luns(session) == [1, lun]
            assert command(session, lun, read_10(0, 1), None, 512).data == bytes(512)
            assert command(session, lun, write_10(0, 1), bytes(512)).sense[2:14:10] == bytes([7, 0x27])
            second = broker.ask(OTHER, wanted[:1], lease_seconds=60)  # it is read by both
            eventually(lambda: broker.requests.get(second.name).state is RequestState.GRANTED)
            served.withdraw("disk0@monday")
            eventually(lambda: luns(session) == [1])
        broker.end(made.name, RequestStep.FREE, "released")
        eventually(lambda: broker.requests.get(made.name).state is RequestState.DONE)
        disk.close()


def test_a_granted_drive_is_closed_to_other_targets_which_go_on_with_theirs(daemon: Daemon) -> None:
    target, portal = daemon.call("target.list")[0]["iqn"], daemon.wait_ready()["portals"][0]
    with InitiatorSession(portal, target, initiator_name=OTHER, timeout_seconds=60) as other:
        request = granted(daemon)
        assert holds(request) == [("drive0", "A00001L6")]
        for cdb in (READY, REWIND, WRITE_BLOCK, PREVENT, RESERVE):
            assert command(other, 1, cdb, bytes(512) if cdb is WRITE_BLOCK else None).status == CONFLICT
        assert command(other, 1, INQUIRY, None, 36).status == 0
        with pytest.raises(OperatorError, match="granted to"):
            daemon.call("unload", drive="drive:0")
        moved = command(other, 0, move_medium(256, 4099))  # by a legacy media changer
        assert (moved.status, moved.sense[2] & 0xF) == (2, 5)
        daemon.call("load", cartridge="A00002L6", drive="drive:1")
        assert command(other, 2, WRITE_BLOCK, b"l" * 512).status == 0
        with login(request["grant"]) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            assert command(other, 1, WRITE_BLOCK, b"l" * 512).status == CONFLICT
        daemon.call("grant.release", request=request["request"])
        over(daemon, request["request"])
        assert command(other, 1, RESERVE).status == 0
    waiting = daemon.call("request.create", initiator=HOST, volume=["A00002L6"])["request"]
    why = eventually(lambda: daemon.call("request.show", request=waiting)["why"])
    assert why.startswith("cartridge A00002L6 is in use in drive 1: it is being written")


def test_a_drive_that_somebody_has_reserved_is_not_granted(daemon: Daemon) -> None:
    target, portal = daemon.call("target.list")[0]["iqn"], daemon.wait_ready()["portals"][0]
    with InitiatorSession(portal, target, initiator_name=OTHER, timeout_seconds=60) as other:
        assert command(other, 1, RESERVE).status == 0
        assert holds(granted(daemon)) == [("drive1", "A00001L6")]


def test_the_gate_chooses_the_drive_at_the_first_login(daemon: Daemon) -> None:
    made = daemon.call("request.create", initiator=HOST, by_gate=True)["request"]
    request = eventually(lambda: (found := daemon.call("request.show", request=made))["grant"] and found)
    assert (request["state"], request["units"]) == ("placing", [])
    assert holds(granted(daemon)) == [("drive0", "A00002L6")]  # the broker's choice, meanwhile
    with login(request["grant"]) as session:
        assert luns(session) == [2]
        eventually(lambda: command(session, 2, READY).status == 0)  # 02/04/01 until the volume is there
        assert command(session, 2, WRITE_BLOCK, b"t" * 512).status == 0
    assert holds(daemon.call("request.show", request=made)) == [("drive1", "A00001L6")]
    with login(request["grant"]) as session:
        assert luns(session) == [2]
    third = daemon.call("request.create", initiator=HOST, by_gate=True, volume=["A00001L6"])["request"]
    assert eventually(lambda: daemon.call("request.show", request=third)["why"]).endswith("granted to somebody else")
    daemon.call("grant.release", request=made)
    over(daemon, made)
    request = eventually(lambda: (found := daemon.call("request.show", request=third))["grant"] and found)
    with login(request["grant"]) as session:
        eventually(lambda: command(session, 2, READY).status == 0)


def test_while_the_broker_is_down_grants_go_on_and_nothing_is_missed(tmp_path: Path) -> None:
    directory = library(tmp_path)
    with serving(directory) as served, stopped_clock(served) as clock:

        def verb(name: str, **given: Any) -> Any:
            context = OnLibrary(served.settings, directory / "tapebay.toml", served.files, served)
            return perform(VERBS[name], context, parameters_of(VERBS[name], given))

        request, grant = granted_here(served)
        assert verb("broker.stop") == {"up": False, "why": "the broker is stopped", "live": 1, "waiting": 0}
        with login(grant) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            clock[0] += LEASE_SECONDS + 1
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
        for name, given in (("request.create", {"initiator": HOST}), ("grant.renew", {"request": request})):
            with pytest.raises(OperatorError, match="the broker is stopped"):
                verb(name, **given)
        with login(grant) as session:  # and comes back
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
        verb("broker.start")
        assert verb("request.show", request=request)["lease_seconds_left"] == LEASE_SECONDS
        verb("grant.release", request=request)
        eventually(lambda: verb("request.show", request=request)["state"] == "done")


def test_keys_are_rotated_and_denied(daemon: Daemon) -> None:
    old = granted(daemon, tag="nightly")
    assert [row["version"] for row in daemon.call("key.rotate")["working_keys"]] == [0, 1]
    new = granted(daemon)
    with login(old["grant"]) as first, login(new["grant"], isid=(1, 2)) as second:
        assert [command(each, lun, READY).status for each, lun in ((first, 1), (second, 2))] == [0, 0]
    with pytest.raises(OperatorError, match="1 grants would end"):
        daemon.call("key.rotate")
    with pytest.raises(OperatorError, match="make another one first"):
        daemon.call("key.deny", key_version=1)
    assert daemon.call("key.deny", tag="nightly") == {"grants_ended": 1}
    assert over(daemon, old["request"])["why"] == "its policy tag nightly is denied"
    with pytest.raises(OperatorError, match="is denied"):
        daemon.call("request.create", initiator=HOST, tag="nightly")
    assert daemon.call("key.list")["denied_tags"] == ["nightly"]
    assert daemon.call("key.allow", tag="nightly")["denied_tags"] == []
    daemon.call("key.rotate")
    assert daemon.call("key.deny", key_version=1) == {"grants_ended": 1}
    assert over(daemon, new["request"])["state"] == "failed"
    with pytest.raises(InitiatorError):
        login(new["grant"], isid=(1, 2))


def test_a_request_that_waits_is_denied_by_its_tag_as_well(daemon: Daemon) -> None:
    """It would hold a drive with a key that opens nothing."""
    granted(daemon, volume=["A00001L6"])
    waits = daemon.call("request.create", initiator=OTHER, volume=["A00001L6"], tag="nightly")["request"]
    eventually(lambda: daemon.call("request.show", request=waits)["why"])
    assert daemon.call("key.deny", tag="nightly") == {"grants_ended": 0}
    ended = over(daemon, waits)
    assert (ended["state"], ended["why"]) == ("failed", "its policy tag nightly is denied")


def test_what_is_denied_just_when_it_is_granted_ends(tmp_path: Path) -> None:
    """Kept as denied, but the daemon was killed, or the broker was about to place it: nothing holds a drive whose key
    opens nothing."""
    with serving(library(tmp_path)) as served:
        broker, gate = served.broker, served.gate
        assert broker is not None and gate is not None
        nightly = broker.ask(HOST, SCRATCH, lease_seconds=60, tag="nightly").name
        other = broker.ask(HOST, SCRATCH, lease_seconds=60).name
        for name in (nightly, other):
            eventually(lambda name=name: broker.requests.get(name).state is RequestState.GRANTED)
        gate.deny_tags([tag_hash("nightly")])
        becomes(RequestState.FAILED, lambda: broker.requests.get(nightly).state)
        assert broker.why(broker.requests.get(nightly)) == "its policy tag nightly is denied"
        assert broker.requests.get(other).state is RequestState.GRANTED
        gate.keys = gate.keys.rotated().without(gate.keys.current)
        becomes(RequestState.FAILED, lambda: broker.requests.get(other).state)
        assert broker.why(broker.requests.get(other)) == "the working key of its key is denied"


def test_whoever_comes_later_waits_and_is_told_why(daemon: Daemon) -> None:
    first = granted(daemon, volume=["A00001L6"])
    second = daemon.call("request.create", initiator=HOST, volume=["A00001L6"])["request"]
    waiting = eventually(lambda: daemon.call("request.show", request=second)["why"])
    assert waiting == "cartridge A00001L6 is granted to somebody else"
    daemon.call("grant.release", request=first["request"])
    eventually(lambda: state(daemon, second) == "granted")
    daemon.call("request.cancel", request=second)
    assert over(daemon, second)["state"] == "cancelled"
    assert [row["state"] for row in daemon.call("request.list")] == ["done", "cancelled"]


def test_a_request_is_cancelled_however_far_it_has_come_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker takes its turn between the look at the request and its end, if it can."""
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        made = broker.ask(HOST, SCRATCH, lease_seconds=60)
        eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
        broker.stop()
        waits = broker.requests.create(HOST, SCRATCH, lease_seconds=60).name
        get = broker.requests.get

        def turn() -> None:
            if broker.requests.changing.acquire(blocking=False):
                broker.requests.changing.release()
                while broker.work() == 0:
                    pass

        def slowly(name: str) -> Request:
            found = get(name)
            other = threading.Thread(target=turn)
            other.start()
            other.join()
            return found

        monkeypatch.setattr(broker.requests, "get", slowly)
        assert broker.end(waits, RequestStep.CANCEL, "cancelled").state is RequestState.CANCELLED


def test_a_renewal_is_in_time_or_told_that_it_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease has been found over, and a renewal comes before that is kept."""
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        name = broker.ask(HOST, SCRATCH, lease_seconds=60).name
        eventually(lambda: broker.requests.get(name).state is RequestState.GRANTED)
        step, told = broker.requests.step, list[object]()

        def renews() -> None:
            try:
                told.append(broker.renew(name))
            except RequestStateError as error:
                told.append(error)

        other = threading.Thread(target=renews)

        def slowly(request: str, wanted: RequestStep, **more: Any) -> Request:
            if wanted is RequestStep.END:
                other.start()
                other.join(0.2)  # it would be through by then, if it could
            return step(request, wanted, **more)

        monkeypatch.setattr(broker.requests, "step", slowly)
        broker._leases[name] = 0.0
        broker.wake()
        eventually(lambda: broker.requests.get(name).state.over)
        other.join(60)
        assert [type(one) for one in told] == [RequestStateError]


def test_revoked_while_it_is_used(daemon: Daemon) -> None:
    request = granted(daemon)
    session = login(request["grant"])
    assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
    daemon.call("grant.revoke", request=request["request"])
    with pytest.raises((InitiatorError, AssertionError)):
        while True:
            result = session.command(1, WRITE_BLOCK, b"t" * 512)
            assert result.status != 0 and result.sense[2] & 0xF != 5
    session.close()
    ended = over(daemon, request["request"])
    assert (ended["state"], ended["why"]) == ("failed", "revoked")
    assert eventually(lambda: daemon.call("session.list") == [])


def test_a_client_that_is_lost_gives_its_drive_back(tmp_path: Path) -> None:
    """Its session too, with what it wrote last on stable storage."""
    with serving(library(tmp_path)) as served, stopped_clock(served) as clock:
        broker = served.broker
        assert broker is not None
        request, grant = granted_here(served)
        clock[0] += LEASE_SECONDS - 1
        assert broker.renew(request) == LEASE_SECONDS
        clock[0] += LEASE_SECONDS - 1
        with login(grant) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0  # no filemark, nothing synchronised
            clock[0] += 1
            broker.wake()
            eventually(lambda: broker.requests.get(request).state.over)
        ended = broker.requests.get(request)
        assert (ended.state, ended.reason) == (RequestState.DONE, f"it was not renewed for {LEASE_SECONDS} s")
        assert eventually(lambda: served.server.sessions() == [])
        with pytest.raises(RequestStateError, match="no grant to be renewed"):
            broker.renew(request)
        _, again = granted_here(served, Wanted(write=False, volume="A00001L6"))
        with login(again) as session:
            assert bytes(command(session, 1, READ_BLOCK, None, 512).data) == b"t" * 512


def test_grants_outlive_the_broker_for_as_long_as_is_set(tmp_path: Path) -> None:
    directory = library(tmp_path)
    with serving(directory) as served:
        broker, gate, offset = served.broker, served.gate, [0.0]
        assert broker is not None and gate is not None
        gate._clock = lambda: time.monotonic() + offset[0]
        made = broker.ask(HOST, SCRATCH, lease_seconds=600)
        eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
        key = broker.key(broker.requests.get(made.name))
        assert key is not None
        grant = {"user": key.name, "secret": key.secret, "mutual_user": GATE, "mutual_secret": key.mutual_secret}
        grant |= {"portals": served.bound}
        broker.stop()
        offset[0] = 24 * 3600 - 60
        with login(grant) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            offset[0] += 61
            refused = command(session, 1, WRITE_BLOCK, b"t" * 512)
            assert (refused.status, refused.sense[2] & 0xF, refused.sense[12]) == (2, 5, 0x20)
        with pytest.raises(InitiatorError):
            login(grant)
        broker.start()  # which tells the gate that the grant lives
        eventually(lambda: broker.lease_left(broker.requests.get(made.name)))
        eventually(lambda: not gate._leases[bytes.fromhex(made.name)].over)
        login(grant).close()


def test_no_login_with_a_key_asks_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first nor one after a lost connection: the broker keeps afterwards to whom a key is bound."""
    with serving(library(tmp_path)) as served:
        _, grant = granted_here(served)
        asking = list[str]()

        def watched(real: Callable[..., Any]) -> Callable[..., Any]:
            def ask(*given: Any, **more: Any) -> Any:
                asking.append(threading.current_thread().name)
                return real(*given, **more)

            return ask

        for name in ("read", "change"):
            monkeypatch.setattr(Database, name, watched(getattr(Database, name)))
        for _ in range(2):
            login(grant).close()
        eventually(lambda: "broker" in asking)
        assert "iscsi connection" not in asking


def test_drives_keep_their_luns_behind_the_gate(daemon: Daemon) -> None:
    """Whatever becomes of other devices, and of their LUNs in other targets."""
    request = granted(daemon)
    daemon.call("disk.create", name="disk0", size="1 MiB")
    daemon.call("drive.create", name="drive9")
    daemon.call("disk.remove", name="disk0")
    with login(request["grant"]) as session:
        assert luns(session) == [1]
        assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
    assert daemon.call("request.show", request=request["request"])["units"][0]["lun"] == 1


def test_a_grant_is_its_maker_s(tmp_path: Path) -> None:
    """Other applications see who has which drives, and neither the key nor a way to end it."""
    directory = library(tmp_path)
    with serving(directory) as served:

        def ask(name: str, verb: str, **given: Any) -> Any:
            scope = Scope.ADMINISTER if name == "operator" else Scope.OPERATE
            caller = Caller(name, scope)
            context = OnLibrary(served.settings, directory / "tapebay.toml", served.files, served, caller=caller)
            return perform(VERBS[verb], context, parameters_of(VERBS[verb], given))

        made = ask("token alpha", "request.create", initiator=HOST)["request"]
        eventually(lambda: ask("token alpha", "request.show", request=made)["grant"])
        assert ask("operator", "request.show", request=made)["grant"]
        assert ask("token beta", "request.show", request=made)["grant"] is None
        assert ask("token beta", "request.list")[0]["owner"] == "token alpha"
        for verb in ("grant.renew", "grant.release", "request.cancel", "grant.revoke"):
            with pytest.raises(OperatorError) as refused:
                ask("token beta", verb, request=made)
            assert refused.value.failure is Failure.NOT_PERMITTED
        assert ask("token alpha", "grant.release", request=made)["state"] in ("ending", "done")


def test_a_broker_that_died_ends_no_grant_and_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        made = broker.ask(HOST, SCRATCH, lease_seconds=60)
        eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
        key = broker.key(broker.requests.get(made.name))
        assert key is not None
        grant = {"user": key.name, "secret": key.secret, "mutual_user": GATE, "mutual_secret": key.mutual_secret}
        with login({**grant, "portals": served.bound}) as session:
            broker._thread.pause_seconds = 3600.0
            with monkeypatch.context() as patch:
                patch.setattr(broker, "work", lambda _stopping: sys.exit())
                broker.wake()
                eventually(lambda: not broker.up)
            with pytest.raises(BrokerDown, match=r"the broker has failed \(its thread was ended by SystemExit\)"):
                broker.renew(made.name)
            assert b"tapebay_broker_up 0.0" in Exposition(lambda: served).content()
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            broker.start()
            assert broker.up
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
        broker.end(made.name, RequestStep.FREE, "released")
        eventually(lambda: broker.requests.get(made.name).state is RequestState.DONE)


def test_a_first_login_that_cannot_be_kept_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        made = broker.ask(HOST, SCRATCH, lease_seconds=60)
        eventually(lambda: broker.requests.get(made.name).state is RequestState.GRANTED)
        key = broker.key(broker.requests.get(made.name))
        assert key is not None
        step, failed = broker.requests.step, threading.Event()

        def full(name: str, what: RequestStep, **changes: Any) -> Request:
            if not failed.is_set():
                failed.set()
                raise OSError(errno.ENOSPC, "no space")
            return step(name, what, **changes)

        monkeypatch.setattr(broker.requests, "step", full)
        grant = {"user": key.name, "secret": key.secret, "mutual_user": GATE, "mutual_secret": key.mutual_secret}
        with login({**grant, "portals": served.bound}) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            assert failed.wait(60)
            eventually(lambda: broker.requests.get(made.name).port is not None)


def test_whoever_asked_for_two_drives_is_not_passed_by_for_ever(tmp_path: Path) -> None:
    with serving(library(tmp_path)) as served:
        broker = served.broker
        assert broker is not None
        first = broker.ask(HOST, SCRATCH, lease_seconds=60)
        eventually(lambda: broker.requests.get(first.name).state is RequestState.GRANTED)
        both = broker.ask(HOST, (Wanted(volume="A00001L6"), Wanted(volume="A00002L6")), lease_seconds=60)
        broker.end(first.name, RequestStep.FREE, "released")
        eventually(lambda: broker.requests.get(both.name).state is RequestState.GRANTED)
        broker.end(both.name, RequestStep.FREE, "released")
        eventually(lambda: broker.requests.get(both.name).state is RequestState.DONE)
        one = broker.ask(HOST, (Wanted(volume="A00002L6"),), lease_seconds=60)
        eventually(lambda: broker.requests.get(one.name).state is RequestState.GRANTED)
        served.files.cartridges.create_all({"A00003L6": MEDIA["LTO-6"]}, None)
        for _ in served.robot.add_all([("A00003L6", served.files.inventory.layout.storage[2])]):
            pass
        two = broker.ask(HOST, (Wanted(), Wanted()), lease_seconds=60)
        late = broker.ask(OTHER, SCRATCH, lease_seconds=60)
        becomes("no 2 drives that fit are free at once", lambda: broker.why(broker.requests.get(two.name)))
        becomes("no drive that fits is free", lambda: broker.why(broker.requests.get(late.name)))  # one is, for `two`
        broker.end(one.name, RequestStep.FREE, "released")
        eventually(lambda: broker.requests.get(two.name).state is RequestState.GRANTED)
        assert broker.requests.get(late.name).state is RequestState.QUEUED


REFUSED: list[tuple[str, dict[str, Any], Failure]] = [
    ("request.create", {"initiator": "nobody"}, Failure.USAGE),
    ("request.create", {"initiator": HOST, "volume": ["ZZZ001L6"]}, Failure.NOT_FOUND),
    ("request.create", {"initiator": HOST, "read_only": True}, Failure.USAGE),
    ("request.create", {"initiator": HOST, "lease_seconds": 0}, Failure.USAGE),
    ("request.create", {"initiator": HOST, "volume": ["A00001L6", "A00001L6"]}, Failure.REFUSED),
    ("request.create", {"initiator": HOST, "scratch": 3}, Failure.REFUSED),
    ("request.create", {"initiator": HOST, "scratch": 0}, Failure.USAGE),
    ("request.create", {"initiator": HOST, "device": ["drive7"]}, Failure.NOT_FOUND),
    ("request.show", {"request": "0"}, Failure.NOT_FOUND),
    ("grant.release", {"request": "0"}, Failure.NOT_FOUND),
]


def test_grants_take_nothing_out_of_a_partition(daemon: Daemon) -> None:
    daemon.call("cartridge.create", barcode="A00003L6")
    daemon.call("partition.create", name="a", slots="1-2", drives="drive0")
    request = granted(daemon)
    assert holds(request) == [("drive1", "A00003L6")]  # drive0, A00001L6 and A00002L6 are the partition's
    waits = daemon.call("request.create", initiator=OTHER, volume=["A00001L6"])["request"]
    reason = "cartridge A00001L6 is in a partition of the library"
    eventually(lambda: daemon.call("request.show", request=waits)["why"] == reason)
    daemon.call("request.cancel", request=waits)
    with pytest.raises(OperatorError, match="drive1 is granted; wait, or: tapebay request revoke"):
        daemon.call("partition.change", name="a", drives="drive0,drive1")
    daemon.call("grant.release", request=request["request"])
    over(daemon, request["request"])
    assert {row["barcode"]: row["place"] for row in daemon.call("cartridge.list")}["A00003L6"] == "slot:3"


def test_what_is_refused_changes_nothing(daemon: Daemon) -> None:
    for verb, given, failure in REFUSED:
        with pytest.raises(OperatorError) as refused:
            daemon.call(verb, **given)
        assert refused.value.failure is failure, (verb, given)
    assert daemon.call("request.list") == []


def test_killed_with_a_grant_and_one_that_ends(tmp_path: Path) -> None:
    """After kill -9 the first key still opens its drive, and the other grant is brought to its end."""
    directory = library(tmp_path)
    daemon = Daemon(directory)
    try:
        daemon.wait_ready()
        daemon.call("cartridge.create", barcode="A00001L6", count=2)
        kept, ended = granted(daemon), granted(daemon)
        with login(kept["grant"]) as session:
            assert command(session, 1, WRITE_BLOCK, b"t" * 512).status == 0
            daemon.call("grant.revoke", request=ended["request"])
        daemon.stop(signal.SIGKILL)
        daemon = Daemon(directory)
        daemon.wait_ready()
        assert over(daemon, ended["request"])["state"] == "failed"
        again = daemon.call("request.show", request=kept["request"])
        assert again["state"] == "granted"
        assert {**again["grant"], "portals": None} == {**kept["grant"], "portals": None}
        with pytest.raises(InitiatorError):  # the key is bound to its first initiator port still
            login(again["grant"], isid=(1, 1))
        with login(again["grant"]) as session:
            assert command(session, 1, READY).status == 0
        with pytest.raises(InitiatorError):
            login({**ended["grant"], "portals": again["grant"]["portals"]})
    finally:
        daemon.stop()
        print(*daemon.log, sep="\n")
