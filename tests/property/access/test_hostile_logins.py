"""A hostile initiator at the door: whatever name, ISID, TSIH, account and stage it tries, it is let in as nobody but
itself, takes no session over, and disturbs none.

Two victims are logged in over TCP: carol, who has proved an account, and alice, who is known by her name from her own
network. Mallory knows their names, ISIDs and TSIHs, and has an account of his own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.packet import Raw

from appliance.access.directory import Directory
from appliance.settings import config_file
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.server import Server
from tests.fuzz import layers
from tests.fuzz.peer import FULL_FEATURE, OPERATIONAL, SECURITY, HungUp, Peer, text
from tests.unit.iscsi.dummy import Memory

IQN, OTHER_IQN = "iqn.2026-11.io.tapebay:library", "iqn.2026-11.io.tapebay:nothing"
ALICE, CAROL, MALLORY = (f"iqn.1993-08.org.debian:{name}" for name in ("alice", "carol", "mallory"))
ALICES_ADDRESS = "127.0.5.1"
SECRETS: dict[str, str] = {"payroll": "twelve chars", "mallory": "mallory's own"}
CONFIG = f"""
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "{IQN}"
luns = {{ 0 = "a", 1 = "b", 2 = "c" }}
[[chap.accounts]]
user = "payroll"
secret = "twelve chars"
initiator = "{CAROL}"
""" + "".join(f'[[disks]]\nname = "{name}"\nsize = "1 MiB"\n' for name in "abc") + "".join(
    f'[[chap.accounts]]\nuser = "mallory"\nsecret = "{SECRETS["mallory"]}"\ninitiator = "{name}"\n'
    for name in (MALLORY, CAROL)  # whoever knows his secret may come by her name, and is mallory
) + "".join(
    f'[[zones]]\nname = "z{device}"\n{who}\ndevices = ["{device}"]\n'
    for device, who in {
        "a": 'accounts = ["payroll"]',
        "b": f'initiators = ["{ALICE}"]\nnetworks = ["{ALICES_ADDRESS}/32"]',
        "c": 'accounts = ["mallory"]',
    }.items()
)  # fmt: skip
ISIDS = {ALICE: b"\x80\x12\x34\x56\0\x0a", CAROL: b"\x80\x12\x34\x56\0\x0c"}
RESERVE, REPORT_LUNS = bytes([0x16]) + bytes(5), bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
LUN_DOES_NOT_EXIST = 2


class Door:
    """One attempt: the stages of a login by hand (RFC 7143 6.3), CHAP with MD5 from hashlib."""

    def __init__(self, address: tuple[str, int], source: str, name: str, isid: bytes, tsih: int = 0) -> None:
        self.peer = Peer(address, source=source)
        self._name, self._isid, self._tsih = name, isid, tsih

    def _ask(self, csg: int, nsg: int | None, keys: dict[str, object]) -> layers.LoginResponse:
        request = layers.LoginRequest(
            isid=self._isid, tsih=self._tsih, initiator_task_tag=7, cmd_sn=self.peer.cmd_sn, current_stage=csg,
            next_stage=nsg or 0, transit=nsg is not None,
        )  # fmt: skip
        self.peer.send(request / Raw(text(keys)))
        answer = self.peer.receive()
        assert isinstance(answer, layers.LoginResponse), answer
        if answer.status_class:
            raise Refused(answer.status_class, answer.status_detail)
        return answer

    def log_in(self, target: str | None, account: tuple[str, str] | None, *, skip_security: bool = False) -> int:
        """Returns the TSIH. Raises Refused, HungUp."""
        named: dict[str, object] = {"InitiatorName": self._name}
        named |= {"TargetName": target} if target else {"SessionType": "Discovery"}
        if not skip_security:
            named["AuthMethod"] = "CHAP,None" if account else "None"
            answer = self._ask(SECURITY, None if account else OPERATIONAL, named)
            if account and b"AuthMethod=CHAP" in answer.data:
                self._prove(*account)
            elif account:
                self._ask(SECURITY, OPERATIONAL, {})
            named = {}
        return int(self._ask(OPERATIONAL, FULL_FEATURE, named).tsih)

    def _prove(self, user: str, secret: str) -> None:
        answer = self._ask(SECURITY, None, {"CHAP_A": 5})
        told = dict(pair.split(b"=", 1) for pair in answer.data.split(b"\0") if pair)
        challenge = bytes.fromhex(told[b"CHAP_C"].decode()[2:])
        proof = hashlib.md5(bytes([int(told[b"CHAP_I"])]) + secret.encode() + challenge).hexdigest()
        self._ask(SECURITY, OPERATIONAL, {"CHAP_N": user, "CHAP_R": f"0x{proof}"})

    def command(self, lun: int, cdb: bytes, length: int = 0) -> tuple[int, bytes]:
        """Status and Data-In of a command without Data-Out."""
        self.peer.send(self.peer.command(lun, cdb, read=bool(length), expected_data_transfer_length=length))
        data = b""
        while True:
            answer = self.peer.receive()
            if isinstance(answer, layers.DataIn):
                data += answer.data
                if answer.has_status:
                    return int(answer.status), data
            elif isinstance(answer, layers.ScsiResponse):
                return int(answer.status), data

    def manage(self, function: int, lun: int) -> int:
        """The response to a task management function."""
        request = layers.TaskManagementRequest(
            function=function, lun=lun << 48, initiator_task_tag=self.peer.tag(), cmd_sn=self.peer.cmd_sn, immediate=1
        )
        self.peer.send(request)
        while True:
            answer = self.peer.receive()
            if isinstance(answer, layers.TaskManagementResponse):
                return int(answer.response)


class Refused(Exception):
    """Login status class and detail."""


class Place:
    """The server and its victims, each with a reservation that only its session keeps."""

    def __init__(self, stack: ExitStack) -> None:
        self.units = {name: Memory(f"M{name}") for name in "abc"}
        for unit in self.units.values():
            stack.callback(unit.close)
        directory = Directory(config_file.parse(Path("tapebay.toml"), CONFIG), self.units)
        self.server = Server(directory, directory.all_portals)
        stack.callback(self.server.stop)
        (self.address,) = self.server.start()
        self.victims = {
            "a": Door(self.address, "127.0.5.2", CAROL, ISIDS[CAROL]),
            "b": Door(self.address, ALICES_ADDRESS, ALICE, ISIDS[ALICE]),
        }
        self.tsihs = [
            self.victims["a"].log_in(IQN, ("payroll", SECRETS["payroll"])), self.victims["b"].log_in(IQN, None)
        ]  # fmt: skip
        for victim, lun in zip(self.victims.values(), (0, 1), strict=True):
            stack.callback(victim.peer.close)
            while victim.command(lun, RESERVE)[0]:
                pass
        self._sources = iter(range(1, 1 << 16))

    def source(self) -> str:
        """An address from which nobody has come yet: failed logins of one do not keep the next out."""
        number = next(self._sources)
        return f"127.9.{number >> 8}.{number & 0xFF}"

    def check(self) -> None:
        """Both victims' sessions live, hold what they held, and were told nothing."""
        for name, principal in (("a", Principal.account("payroll")), ("b", Principal.initiator(ALICE))):
            unit = self.units[name]
            assert self.victims[name].peer.is_alive()
            assert unit.reservations.legacy_holder is not None
            assert unit.reservations.legacy_holder.principal == principal
            assert {nexus.principal for nexus in unit.nexuses} == {principal}
            assert not unit.attentions.waiting
        sessions = [record.tsih for record in self.server.sessions()]
        assert sessions[:2] == self.tsihs


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack)


def may_be(name: str, target: str | None, account: tuple[str, str] | None, skip_security: bool) -> bool:
    """Whether that is mallory himself."""
    himself = account == ("mallory", SECRETS["mallory"]) and not skip_security
    return target is None or (target == IQN and himself and name.lower() in (MALLORY, CAROL))


NAMES = [ALICE, CAROL, MALLORY, ALICE.upper(), CAROL.title(), f"{ALICE} ", f"{CAROL}\t", f"{ALICE}\u00df"]


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(NAMES),
    isid=st.sampled_from([*ISIDS.values(), bytes(6), b"\x80\x12\x34\x56\0\x0d"]),
    stolen=st.sampled_from([None, None, None, 0, 1, "wild"]),
    target=st.sampled_from([IQN, IQN, IQN, IQN.upper(), OTHER_IQN, None]),
    account=st.sampled_from(
        [
            None, *[("mallory", SECRETS["mallory"])] * 4, ("payroll", "wrong secret"), ("payroll", SECRETS["mallory"]),
            ("mallory", SECRETS["payroll"]), (CAROL, SECRETS["mallory"]), ("PAYROLL", SECRETS["payroll"]),
        ]
    ),
    skip_security=st.booleans(),
)  # fmt: skip
def test_nobody_comes_in_as_somebody_else(
    place: Place, name: str, isid: bytes, stolen: int | str | None, target: str | None, account: tuple[str, str] | None,
    skip_security: bool,
) -> None:  # fmt: skip
    tsih = 0 if stolen is None else 0xBEEF if stolen == "wild" else place.tsihs[int(stolen)]
    door = Door(place.address, place.source(), name, isid, tsih)
    try:
        number = door.log_in(target, account, skip_security=skip_security)
    except (Refused, HungUp):
        pass
    else:
        known = target.lower() if target else None
        assert may_be(name, known, account, skip_security) and stolen is None
        assert number not in place.tsihs
        if target:
            be_hostile(door)
    finally:
        door.peer.close()
    place.check()


def be_hostile(door: Door) -> None:
    """What a session of mallory's can try."""
    status, luns = door.command(0, REPORT_LUNS, 256)
    assert (status, luns[3], luns[8:10]) == (0, 8, bytes([0, 2])), "he sees c, and nothing else"
    for lun in (0, 1):
        assert door.command(lun, bytes(6))[0] == 2
        for function in (1, 2, 4, 5):
            assert door.manage(function, lun) == LUN_DOES_NOT_EXIST
    assert door.manage(6, 0) == 0  # TARGET WARM RESET: of what he sees
    assert door.manage(7, 0) == 0  # TARGET COLD RESET: and ends his own session


def test_mallory_by_the_name_and_isid_of_carol(place: Place) -> None:
    """As himself, with another's name: he is let in by another ISID and not by hers, while she is there."""
    for isid, fits in ((bytes(6), True), (ISIDS[CAROL], False)):
        door = Door(place.address, place.source(), CAROL, isid)
        try:
            door.log_in(IQN, ("mallory", SECRETS["mallory"]))
            assert fits
            be_hostile(door)
        except Refused as refused:
            assert not fits and refused.args == (2, 2)
        finally:
            door.peer.close()
    place.check()


def test_alices_name_from_elsewhere(place: Place) -> None:
    door = Door(place.address, place.source(), ALICE, ISIDS[ALICE])
    with pytest.raises(Refused):
        door.log_in(IQN, None)
    door.peer.close()
    place.check()
