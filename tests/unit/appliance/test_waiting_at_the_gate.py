"""A session that a key opened, cut and back: the side of the drive, with a real tape, and what becomes of the grant."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.broker.states import RequestState, RequestStep
from appliance.cli.tables import session_state
from appliance.library.library import Library
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from scsi_targets.devices.changer.robot import Manner
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import spc
from tests.fuzz import layers
from tests.fuzz.peer import Peer
from tests.support.scsi import RESERVE_6, REWIND, TEST_UNIT_READY, read_6, write_6, write_filemarks
from tests.support.waiting import becomes, eventually
from tests.unit.appliance.test_requests import (
    GATE,
    HOST,
    LEASE_SECONDS,
    PREVENT,
    granted_here,
    library,
    serving,
    stopped_clock,
)
from tests.unit.devices.tape.encryption_support import LOCAL, set_page
from tests.unit.devices.tape.protection_support import CRC32C, page, sealed
from tests.unit.iscsi.test_session import good, sense_of
from tests.unit.iscsi.test_waiting_nexus import cut

LUN = 1
POWER_ON, MEDIUM_CHANGED = (6, 0x29, 0), (6, 0x28, 0)
BLOCK = b"t" * 512


class Host(Peer):
    """Logs in with a key; comes back with the numbers of the connection before."""

    def __init__(self, served: Library, grant: dict[str, Any], before: Peer | None = None) -> None:
        address, _, port = served.bound[0].rpartition(":")
        super().__init__((address, int(port)))
        if before is not None:
            self.cmd_sn, self.exp_stat_sn = before.cmd_sn, before.exp_stat_sn
        try:
            self.chap_login(GATE, grant["user"], grant["secret"], initiator_name=HOST)
        except AssertionError:
            self.close()
            raise

    def ask(self, cdb: bytes, data: bytes = b"", *, length: int = 0) -> layers.Pdu:
        """The answer to one command with Data-Out, or with Data-In of that length."""
        write = {"write": 1, "expected_data_transfer_length": len(data)} if data else {}
        read = {"read": 1, "expected_data_transfer_length": length} if length else {}
        command = self.command(LUN, cdb, **write, **read)
        self.send(command / data if data else command)
        return self.receive()


def settled(host: Host) -> Host:
    """With the unit attentions taken."""
    eventually(lambda: host.ask(TEST_UNIT_READY).status == 0)
    return host


def drive_of(served: Library) -> TapeDrive:
    drive = served.drives["drive0"]
    assert isinstance(drive, TapeDrive)
    return drive


def test_a_drive_goes_on_in_the_middle_of_its_work(tmp_path: Path) -> None:
    """Position, RESERVE, prevention, logical block protection and the key are where they were, and it says nothing."""
    with serving(library(tmp_path)) as served:
        _, grant = granted_here(served)
        first, drive = settled(Host(served, grant)), drive_of(served)
        mode = bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page(CRC32C)
        protect = spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(mode))
        key = set_page(scope=LOCAL)
        encrypt = spc.SecurityProtocolOut.encode(
            security_protocol=0x20, security_protocol_specific=0x10, transfer_length=len(key)
        )
        for cdb, data in ((RESERVE_6, b""), (PREVENT, b""), (protect, mode), (encrypt, key)):
            good(first.ask(cdb, data))
        before = sealed(BLOCK, CRC32C)
        good(first.ask(write_6(len(before)), before))
        cut(first)
        eventually(lambda: not served.server.sessions())
        assert drive.removal_prevented and len(drive.nexuses) == 1
        back = Host(served, grant, first)
        after = sealed(b"u" * 512, CRC32C)
        good(back.ask(write_6(len(after)), after))  # had it lost its protection, this would be a block of 516 bytes
        assert sense_of(back.ask(write_6(len(BLOCK)), BLOCK))[1:] == (0x10, 0x01)
        good(back.ask(write_filemarks()))
        good(back.ask(REWIND))
        assert [good(back.ask(read_6(516), length=516)).data for _ in range(2)] == [before, after]
        assert drive.reservations.legacy_holder is not None and drive.removal_prevented
        cartridge = drive.cartridge
        assert cartridge is not None and cartridge.barcode == "A00001L6"
        back.close()


def test_it_is_shown_while_it_waits_and_can_be_ended(tmp_path: Path) -> None:
    directory = library(tmp_path)
    with serving(directory) as served:

        def verb(name: str, **given: Any) -> Any:
            context = OnLibrary(served.settings, directory / "tapebay.toml", served.files, served)
            return perform(VERBS[name], context, parameters_of(VERBS[name], given))

        _, grant = granted_here(served)
        first = settled(Host(served, grant))
        good(first.ask(RESERVE_6))
        (here,) = verb("session.list")
        assert (here["state"], here["waiting_since"], here["waits_until"]) == ("LOGGED_IN", None, None)
        assert session_state(here) == "logged in"
        cut(first)
        (waits,) = eventually(lambda: [row for row in verb("session.list") if row["state"] == "WAITING"])
        same = ("id", "initiator", "principal", "target", "address", "since")
        assert [waits[name] for name in same] == [here[name] for name in same]
        assert waits["holds"] == ["drive0"] and waits["since"] <= waits["waiting_since"] < waits["waits_until"]
        assert re.fullmatch(r"waiting for \d+ s, 2[34]\.\d h left", session_state(waits)), session_state(waits)
        shown = verb("session.show", id=waits["id"])
        assert shown["waiting_since"] == waits["waiting_since"] and verb("status")["sessions"][0]["state"] == "WAITING"
        verb("session.end", id=waits["id"])
        assert (verb("session.list"), drive_of(served).nexuses) == ([], set())
        back = Host(served, grant, first)  # its grant is not over
        assert sense_of(back.ask(TEST_UNIT_READY)) == POWER_ON
        back.close()


@pytest.mark.parametrize("how", ["revoked", "not renewed"])
def test_a_grant_that_ends_meanwhile_gives_its_drive_back(tmp_path: Path, how: str) -> None:
    with serving(library(tmp_path)) as served, stopped_clock(served) as clock:
        broker, drive = served.broker, drive_of(served)
        assert broker is not None
        name, grant = granted_here(served)
        first = settled(Host(served, grant))
        good(first.ask(write_6(len(BLOCK)), BLOCK))  # no filemark, nothing synchronised
        cut(first)
        eventually(lambda: not served.server.sessions())
        if how == "revoked":
            broker.end(name, RequestStep.FAIL, "revoked")
        else:
            clock[0] += LEASE_SECONDS
            broker.wake()
        eventually(lambda: broker.requests.get(name).state.over)
        assert broker.requests.get(name).state is (RequestState.FAILED if how == "revoked" else RequestState.DONE)
        assert (drive.nexuses, drive.lent_to, drive.cartridge) == (set(), None, None)
        with pytest.raises(AssertionError, match="0202"):
            Host(served, grant, first)
        _, grant = granted_here(served)
        other = settled(Host(served, grant, first))
        good(other.ask(write_filemarks()))
        other.close()


def test_the_gate_s_lease_ends_while_it_waits(tmp_path: Path) -> None:
    """The broker is down, and so nobody extends it."""
    with serving(library(tmp_path)) as served:
        broker, gate, drive, offset = served.broker, served.gate, drive_of(served), [0.0]
        assert broker is not None and gate is not None
        gate._clock = lambda: time.monotonic() + offset[0]
        _, grant = granted_here(served)
        broker.stop()
        first = settled(Host(served, grant))
        cut(first)
        eventually(lambda: not served.server.sessions())
        offset[0] = 24 * 3600 + 60
        becomes(set(), lambda: drive.nexuses)
        with pytest.raises(AssertionError, match="0202"):
            Host(served, grant, first)


def test_an_operator_s_move_is_refused_or_told(tmp_path: Path) -> None:
    """By force, and the same cartridge back: a position that was lost is not kept silent."""
    with serving(library(tmp_path)) as served:
        _, grant = granted_here(served)
        first, drive = settled(Host(served, grant)), drive_of(served)
        good(first.ask(write_6(len(BLOCK)), BLOCK))
        cut(first)
        eventually(lambda: not served.server.sessions())
        assert drive.in_use()
        address, slot = served.drive_addresses()["drive0"], served.files.inventory.layout.storage[0]
        served.robot.move(address, slot, manner=Manner.FORCE)
        served.robot.move(slot, address, manner=Manner.FORCE)
        back = Host(served, grant, first)
        assert sense_of(back.ask(write_6(len(BLOCK)), BLOCK)) == MEDIUM_CHANGED
        back.close()


def test_who_is_cut_off_and_started_anew_is_told(tmp_path: Path) -> None:
    """It begins from other numbers, and knows nothing of protection, keys or position."""
    with serving(library(tmp_path)) as served:
        _, grant = granted_here(served)
        first = settled(Host(served, grant))
        good(first.ask(RESERVE_6))
        cut(first)
        anew = Host(served, grant)
        assert sense_of(anew.ask(TEST_UNIT_READY)) == POWER_ON
        assert drive_of(served).reservations.legacy_holder is None
        anew.close()
