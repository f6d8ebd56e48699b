"""The gate: whom a key lets in, to what, and for how long."""

import dataclasses
import hmac
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from appliance.access.directory import Directory
from appliance.access.gate import Gate, GatedDirectory
from appliance.access.keys import (
    Capability,
    DriveGroup,
    GrantedUnit,
    Key,
    WorkingKeys,
    initiator_hash,
    name_of,
    raw_of,
    volume_hash,
)
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorError, InitiatorSession
from scsi_targets.devices.unit.principal import Permission, Principal, PrincipalKind
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi import chap
from scsi_targets.iscsi.directory import Forbidden, Portal, Unavailable, Who
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.login import Login, LoginProgress
from scsi_targets.iscsi.pdu import LoginRequest, LoginResponse, LoginStatus
from scsi_targets.iscsi.server import Server
from scsi_targets.iscsi.text import Pair, encode, parse
from scsi_targets.t10.sense import CheckCondition
from tests.support import packages
from tests.support.waiting import eventually
from tests.unit.appliance.test_keys import mutated
from tests.unit.iscsi.dummy import Memory, Store
from tests.unit.iscsi.support import Admission

TARGET, LEGACY = "iqn.2026-11.io.tapebay:gate", "iqn.2026-11.io.tapebay:legacy"
HOST, OTHER = "iqn.1993-08.org.debian:host", "iqn.1993-08.org.debian:other"
PORTAL = Portal("127.0.0.1", 0)
NOW_MS = 1_800_000_000_000
EXPIRY_MS, TOLERANCE_MS = NOW_MS + 900_000, 90_000
GRANT = b"grant-01"
DENIED, BECOMING_READY = (5, 0x20, 2), (2, 4, 1)
SEED = 20261129


@dataclass
class Cartridge:
    """As much of one as a gate asks for."""

    barcode: str


class Drive(Memory):
    """A logical unit that holds a cartridge."""

    cartridge: Cartridge | None = None


class World:
    """A gate with two drives, and clocks that tests set."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 1000.0, NOW_MS / 1000
        self.keys = WorkingKeys.new()
        self.gate = Gate(
            TARGET, [PORTAL], self.keys, logout_seconds=0.2, clock=lambda: self.monotonic, wall_clock=lambda: self.wall
        )
        self.drives = {1: Drive("D1"), 2: Drive("D2")}
        self.gate.show(self.drives)

    def key(self, *units: GrantedUnit, host: str = HOST, grant: bytes = GRANT, tag: bytes = bytes(4)) -> Key:
        units = units or (GrantedUnit(1, Permission.ALL, volume_hash("A00001L6")),)
        return self.keys.mint(TARGET, Capability(0, EXPIRY_MS, grant, initiator_hash(host), units, tag))

    def lend(self, *, seconds: float = 60, mounted: bool = True, grant: bytes = GRANT) -> None:
        self.gate.extend(grant, seconds, mounted=mounted)

    def open(self, key: Key, host: str = HOST, isid: int = 1, portal: Portal = PORTAL) -> View:
        return self.gate.open(Who(host, isid.to_bytes(6, "big"), TARGET, portal, "192.0.2.1", key.name))


@pytest.fixture
def world() -> World:
    return World()


def refusal(view: View, lun: int, use: Permission) -> tuple[int, int, int] | None:
    try:
        view.check(lun, use)
    except CheckCondition as refused:
        code = refused.sense.code
        return code.key, code.asc, code.ascq
    return None


def test_a_key_shows_what_was_granted_under_the_same_number_and_nothing_else(world: World) -> None:
    world.lend()
    view = world.open(world.key(GrantedUnit(2, Permission.READ_DATA)))
    assert dict(view.logical_units) == {2: world.drives[2]}
    assert view.principal == Principal(PrincipalKind.KEY, GRANT.hex())
    assert refusal(view, 2, Permission.READ_DATA) is None
    assert refusal(view, 2, Permission.WRITE_DATA) == DENIED


def test_a_key_is_for_its_volume(world: World) -> None:
    world.lend()
    view, drive = world.open(world.key()), world.drives[1]
    for barcode, expected in (("A00001L6", None), ("A00002L6", DENIED), ("A00001L6", None)):
        drive.cartridge = Cartridge(barcode)
        assert refusal(view, 1, Permission.READ_DATA) == expected
        assert refusal(view, 1, Permission(0)) is None  # INQUIRY
    drive.cartridge = None
    assert refusal(view, 1, Permission.READ_DATA) is None  # the drive says itself that it is empty


def test_the_drive_becomes_ready_until_it_is_mounted(world: World) -> None:
    world.lend(mounted=False)
    view = world.open(world.key())
    world.drives[1].cartridge = Cartridge("A00002L6")  # of whoever was there before
    assert refusal(view, 1, Permission.READ_PARAMETERS) == BECOMING_READY
    world.drives[1].cartridge = Cartridge("A00001L6")
    world.lend(mounted=True)
    assert refusal(view, 1, Permission.READ_PARAMETERS) is None


def test_expiry_bounds_the_first_login_only(world: World) -> None:
    world.lend(seconds=3600)
    world.wall = (EXPIRY_MS + TOLERANCE_MS + 1) / 1000
    with pytest.raises(Forbidden, match="expired before its first login"):
        world.open(world.key())
    world.wall = (EXPIRY_MS + TOLERANCE_MS - 1) / 1000
    world.open(world.key())
    world.wall += 1800
    world.open(world.key())  # a connection that broke comes back
    world.monotonic += 3600
    with pytest.raises(Forbidden, match=r"lease of grant .* has ended"):
        world.open(world.key())


@pytest.mark.parametrize("happens", ["revoked", "denied", "expired", "lease", "rotated"])
def test_what_happens_in_the_middle_of_a_login_counts(world: World, happens: str) -> None:
    """Between the judgement of the name and the proof of the secret."""
    world.lend()
    key = world.key(tag=b"tag1")
    who = Who(HOST, bytes(6), TARGET, PORTAL, "192.0.2.1", key.name)
    assert world.gate.credentials(who, key.name).secret == key.secret
    match happens:
        case "revoked":
            world.gate.revoke(GRANT, EXPIRY_MS)
        case "denied":
            world.gate.deny_tags([b"tag1"])
        case "expired":
            world.wall = (EXPIRY_MS + TOLERANCE_MS + 1) / 1000
        case "lease":
            world.monotonic += 61
        case "rotated":
            world.gate.keys = world.keys.rotated().rotated()
    with pytest.raises(Forbidden):
        world.gate.open(who)


@pytest.mark.parametrize("jump_seconds", [-86_400, -400, 400, 86_400])
def test_a_clock_that_is_set_ends_no_grant_and_prolongs_none(world: World, jump_seconds: int) -> None:
    world.lend(seconds=60)
    view = world.open(world.key())
    world.wall += jump_seconds
    assert refusal(view, 1, Permission.WRITE_DATA) is None
    again = world.open(world.key())  # as when the view's end seems to have come, and after a lost connection
    assert again.ends_at == world.wall + 60
    world.monotonic += 61
    assert refusal(view, 1, Permission.WRITE_DATA) == refusal(again, 1, Permission.WRITE_DATA) == DENIED


def test_a_key_of_a_grant_that_nobody_has_told_of_opens_nothing(world: World) -> None:
    with pytest.raises(Forbidden, match="no live grant"):
        world.open(world.key())


def test_the_lease_ends_under_a_session_and_is_extended_in_time(world: World) -> None:
    world.lend(seconds=60)
    view = world.open(world.key())
    assert view.ends_at == world.wall + 60
    world.monotonic += 59
    world.lend(seconds=60)
    world.monotonic += 2
    assert refusal(view, 1, Permission.READ_DATA) is None
    world.monotonic += 59
    assert refusal(view, 1, Permission.READ_DATA) == DENIED


def test_a_key_stays_bound_to_its_initiator_port_after_a_restart(world: World) -> None:
    told: list[Any] = []
    world.gate.on_first_login = lambda *what: told.append(what)
    world.lend()
    key = world.key()
    world.open(key)
    world.open(key)
    ((grant, port, luns),) = told
    again = Gate(TARGET, [PORTAL], world.keys, clock=lambda: world.monotonic, wall_clock=lambda: world.wall)
    again.show(world.drives)
    again.extend(grant, 60, mounted=True)
    again.bind(grant, port, luns)
    world.gate, world.wall = again, world.wall + 7200
    world.open(key)
    with pytest.raises(Forbidden, match="one session"):
        world.open(key, isid=2)


@pytest.mark.parametrize("mounted", [True, False])
def test_a_key_is_for_one_session(world: World, mounted: bool) -> None:
    world.lend(mounted=mounted)
    key = world.key()
    world.open(key)
    with pytest.raises(Forbidden, match="one session"):
        world.open(key, isid=2)
    with pytest.raises(Forbidden, match="one session"):
        world.open(key, portal=Portal("127.0.0.1", 1, 2))
    world.open(key)


def test_a_key_is_for_its_initiator(world: World) -> None:
    world.lend()
    with pytest.raises(Forbidden, match="another initiator"):
        world.open(world.key(), host=OTHER)
    world.open(world.key())  # nothing was bound by it


def test_what_ends_a_grant(world: World) -> None:
    world.lend()
    view = world.open(world.key())
    world.gate.revoke(GRANT, EXPIRY_MS)
    assert refusal(view, 1, Permission.WRITE_DATA) == DENIED
    world.lend()  # too late
    with pytest.raises(Forbidden, match="over or revoked"):
        world.open(world.key())
    world.lend(grant=b"grant-02")
    tagged = world.key(grant=b"grant-02", tag=b"tag1")
    world.open(tagged)
    world.gate.deny_tags([b"tag1"])
    with pytest.raises(Forbidden, match=r"tag of grant .* is denied"):
        world.open(tagged)
    world.gate.deny_tags([])
    world.open(tagged)
    world.lend(grant=b"grant-03")
    other = world.key(grant=b"grant-03")
    world.gate.keys = world.keys.rotated().rotated()
    with pytest.raises(Forbidden, match="working key"):
        world.open(other)


def group_key(world: World, grant: bytes, priority: int) -> Key:
    world.lend(grant=grant)
    return world.key(GrantedUnit(DriveGroup(7, priority).lun, Permission.ALL), grant=grant)


def test_the_gate_gives_the_best_free_drive_of_a_group_to_the_highest_priority(world: World) -> None:
    world.gate.show(world.drives, {7: [1, 2]})
    first, low, high = (
        group_key(world, bytes([number] * 8), priority) for number, priority in ((1, 3), (2, 1), (3, 5))
    )
    assert list(world.open(first).logical_units) == [1]
    world.drives[2].lend(Principal.account("somebody"))
    for key in (low, high):
        with pytest.raises(Unavailable):
            world.open(key)
    world.drives[2].take_back()
    with pytest.raises(Unavailable):
        world.open(low)  # the other one waits too, and goes first
    assert list(world.open(high).logical_units) == [2]
    assert list(world.open(high).logical_units) == [2]
    assert list(world.open(first).logical_units) == [1]
    world.drives[1].take_back()
    world.gate.revoke(bytes([1] * 8), EXPIRY_MS)
    assert list(world.open(low).logical_units) == [1]


def test_who_waits_at_the_gate_no_longer_is_passed_by(world: World) -> None:
    world.gate.show(world.drives, {7: [1]})
    high, low = group_key(world, b"grant-hi", 5), group_key(world, b"grant-lo", 1)
    world.drives[1].lend(Principal.account("somebody"))
    with pytest.raises(Unavailable):
        world.open(high)
    world.drives[1].take_back()
    with pytest.raises(Unavailable):
        world.open(low)
    world.monotonic += 31
    assert list(world.open(low).logical_units) == [1]


def test_a_choice_that_is_offered_to_a_grant_that_is_over_comes_too_late(world: World) -> None:
    """The broker tells it of a request that an operator is just ending."""
    world.gate.show(world.drives, {7: [1, 2]})
    key = group_key(world, GRANT, 1)
    world.gate.revoke(GRANT, EXPIRY_MS)
    world.lend()
    world.gate.offer(GRANT, {DriveGroup(7, 1).lun: (1, 2)})
    with pytest.raises(Forbidden, match="over or revoked"):
        world.open(key)


def test_the_gate_gives_several_drives_or_none(world: World) -> None:
    world.gate.show(world.drives, {7: [1, 2]})
    world.lend()
    units = [GrantedUnit(DriveGroup(7, 0, place).lun, Permission.ALL) for place in (0, 1)]
    world.drives[2].lend(Principal.account("somebody"))
    with pytest.raises(Unavailable):
        world.open(world.key(*units))
    assert world.drives[1].lent_to is None
    world.drives[2].take_back()
    assert list(world.open(world.key(*units)).logical_units) == [1, 2]


def test_the_deny_list_does_not_grow_for_ever(world: World) -> None:
    for number in range(100):
        world.gate.revoke(number.to_bytes(8, "big"), NOW_MS)
    world.wall += 3600
    world.gate.revoke(GRANT, EXPIRY_MS + 3600_000)
    assert list(world.gate._over) == [GRANT]


def test_nobody_enters_without_a_key(world: World) -> None:
    for account in (None, "backup", "ak1.", "ak1.AAAA"):
        with pytest.raises(Forbidden):
            world.gate.open(Who(HOST, bytes(6), TARGET, PORTAL, "", account))
        asked = world.gate.credentials(Who(HOST, bytes(6), TARGET, PORTAL), account or "")
        assert asked.unknown and asked.remark


# ---- the login, PDU by PDU -------------------------------------------------------------------------------------------


@cache
def rest() -> Directory:
    return Directory(config_file.parse(Path("tapebay.toml"), SETTINGS), {})


def chap_login(world: World, name: str, secret: str, host: str = HOST, isid: int = 1) -> Login:
    """A whole login of whoever shows that name and proves that secret."""
    login = Login(GatedDirectory(rest(), world.gate), PORTAL, Limits(), Admission(), now=0.0)
    named: list[Pair] = [("InitiatorName", host), ("TargetName", TARGET), ("AuthMethod", "CHAP")]
    _send(login, named, isid)
    challenge = dict(parse(_send(login, [("CHAP_A", "5")], isid).data))
    proof = chap.response(5, int(challenge["CHAP_I"]), secret, chap.decode_binary(challenge["CHAP_C"]))
    _send(login, [("CHAP_N", name), ("CHAP_R", chap.encode_binary(proof))], isid, transit=1, next_stage=3)
    return login


def _send(login: Login, pairs: list[Pair], isid: int, **fields: int) -> LoginResponse:
    request = LoginRequest.make(encode(pairs), current_stage=0, isid=isid, immediate=1, **fields)
    (response,) = login.receive(request, 0.0)
    assert isinstance(response, LoginResponse)
    return response


def reason_of(login: Login) -> str:
    """Why it was refused, as the log says it; "": it was not."""
    return str(login.refusal or "")


def test_a_key_is_let_in_by_the_login(world: World) -> None:
    world.lend()
    key = world.key()
    assert reason_of(chap_login(world, key.name, key.secret)) == ""
    assert chap_login(world, key.name, key.secret).progress is LoginProgress.ACCEPTED


def test_ten_thousand_mutated_and_replayed_keys_none_of_which_is_let_in(world: World) -> None:
    """The log tells why. Whoever has not proved the secret learns no more than that the login failed."""
    randomness, key = random.Random(SEED), world.key()
    raw = raw_of(key.name)
    world.lend()
    assert reason_of(chap_login(world, key.name, key.secret)) == ""
    over, late, tagged, old = (world.key(grant=bytes([number] * 8), tag=tag) for number, tag in TAGS)
    for number, _ in TAGS:
        world.lend(grant=bytes([number] * 8))
    world.gate.revoke(bytes([1] * 8), EXPIRY_MS)
    world.gate.deny_tags([b"tag1"])
    world.gate.keys = world.keys.rotated()
    old = world.gate.keys.mint(TARGET, Capability.decode(raw_of(old.name)))
    world.gate.keys = world.gate.keys.rotated()
    world.gate.keys = WorkingKeys({**world.gate.keys.keys, 0: world.keys.keys[0]}, world.gate.keys.current)
    attempts: dict[str, Callable[[], Login]] = {
        "is wrong": lambda: chap_login(world, mutated(key.name, raw, randomness), key.secret),
        "the response is wrong": lambda: chap_login(world, key.name, mutated_secret(key.secret, randomness)),
        "for another initiator": lambda: chap_login(world, key.name, key.secret, host=f"{OTHER}{randomness.random()}"),
        "for one session": lambda: chap_login(world, key.name, key.secret, isid=randomness.randrange(2, 1 << 48)),
        "is over or revoked": lambda: chap_login(world, over.name, over.secret),
        "tag of grant": lambda: chap_login(world, tagged.name, tagged.secret),
    }
    for number in range(10_000):
        expected = randomness.choice(list(attempts))
        login = attempts[expected]()
        assert login.progress is LoginProgress.REFUSED, (SEED, number)
        assert expected in reason_of(login), (SEED, number)
        proved = expected in ("for another initiator", "for one session", "is over or revoked", "tag of grant")
        status = LoginStatus.AUTHORIZATION_FAILURE if proved else LoginStatus.AUTHENTICATION_FAILURE
        assert login.refusal is not None and login.refusal.status == status, (SEED, number)
    world.wall = (EXPIRY_MS + TOLERANCE_MS + 1) / 1000
    assert "expired before its first login" in reason_of(chap_login(world, late.name, late.secret))
    assert "expired before its first login" in reason_of(chap_login(world, late.name, "guessed secret"))
    world.gate.keys = world.gate.keys.without(0)
    assert "no longer valid" in reason_of(chap_login(world, old.name, old.secret))


TAGS = ((1, bytes(4)), (2, bytes(4)), (3, b"tag1"), (4, bytes(4)))


def mutated_secret(secret: str, randomness: random.Random) -> str:
    at = randomness.randrange(len(secret))
    return secret[:at] + randomness.choice("abcXYZ012".replace(secret[at], "")) + secret[at + 1 :]


STRANGERS = ["backup", "ak1.", "ak1.AAAA", "ak1." + "A" * 251, "x" * 255]


def test_a_name_that_nobody_has_costs_the_same_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: the keyed hashes and the proofs that are computed for each name."""
    world.lend()
    known = [world.key().name, world.key(grant=b"grant-02").name]
    counts: list[list[int]] = []
    digest, response = hmac.digest, chap.response
    monkeypatch.setattr(hmac, "digest", lambda *given: counts[-1].append(len(given[1])) or digest(*given))
    monkeypatch.setattr(chap, "response", lambda *given: counts[-1].append(0) or response(*given))
    for name in known + STRANGERS:
        counts.append([])
        chap_login(world, name, "guessed secret")
    assert [len(count) for count in counts] == [len(counts[0])] * len(counts)


def test_a_name_that_nobody_has_takes_the_same_time(world: World) -> None:
    """The medians of many logins, by turns; the machine may be busy, so one quiet round of many is enough."""
    world.lend()
    names = [world.key().name, "ak1." + "A" * (len(world.key().name) - 4)]

    def differ() -> float:
        times: dict[str, list[int]] = {name: [] for name in names}
        for _ in range(300):
            for name in names:
                start = time.perf_counter_ns()
                chap_login(world, name, "guessed secret")
                times[name].append(time.perf_counter_ns() - start)
        known, unknown = (statistics.median(times[name]) for name in names)
        return abs(known - unknown) / known

    assert any(differ() < 0.05 for _ in range(40))


# ---- over iSCSI ------------------------------------------------------------------------------------------------------

SETTINGS = f"""
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "{LEGACY}"
"""


@contextmanager
def served(world: World) -> Iterator[tuple[Server, str]]:
    packages.require("libiscsi7")
    settings = config_file.parse(Path("tapebay.toml"), SETTINGS)
    legacy = Directory(settings, dict.fromkeys(settings.device_names(), world.drives[1]))
    world.gate._portals = legacy.all_portals
    server = Server(GatedDirectory(legacy, world.gate), legacy.all_portals, Limits(logout_grace_seconds=0.2))
    (address,) = server.start()
    try:
        yield server, f"{address[0]}:{address[1]}"
    finally:
        server.stop()


def login(portal: str, key: Key, host: str = HOST, target: str = TARGET, *, mutual: bool = False) -> InitiatorSession:
    proof = (TARGET, key.mutual_secret) if mutual else (None, None)
    return InitiatorSession(
        portal, target, initiator_name=host, credentials=Credentials(key.name, key.secret, *proof), timeout_seconds=60
    )


def test_a_real_initiator_logs_in_with_a_key(world: World) -> None:
    world.lend(seconds=600)
    with served(world) as (_, portal), login(portal, world.key(), mutual=True) as session:
        results = [session.command(lun, bytes(6)) for lun in (1, 1)]  # the first takes the unit attention
        assert [result.status for result in results] == [2, 0]
        assert session.command(2, bytes(6)).sense[2:14:10] == bytes([5, 0x25])


def test_legacy_targets_are_as_they_were(world: World) -> None:
    with served(world) as (_, portal):
        with InitiatorSession(portal, LEGACY, initiator_name=HOST, timeout_seconds=60) as session:
            session.command(0, bytes(6))
            assert session.command(0, bytes(6)).status == 0
        with pytest.raises(InitiatorError):
            InitiatorSession(portal, TARGET, initiator_name=HOST, timeout_seconds=60)


def test_a_name_or_secret_that_is_not_right_is_refused(world: World) -> None:
    world.lend(seconds=600)
    key = world.key()
    longer = name_of(
        Capability(0, EXPIRY_MS * 2, GRANT, initiator_hash(HOST), (GrantedUnit(1, Permission.ALL),)).encode()
    )
    with served(world) as (_, portal):
        for wrong in (
            dataclasses.replace(key, secret="A" * 16),
            dataclasses.replace(key, secret=key.mutual_secret),
            dataclasses.replace(key, name=longer),
            dataclasses.replace(key, name="backup"),
        ):
            with pytest.raises(InitiatorError):
                login(portal, wrong)
        login(portal, key).close()


def test_revoked_while_it_is_used(world: World) -> None:
    world.lend(seconds=600)
    with served(world) as (server, portal):
        session = login(portal, world.key())
        session.command(1, bytes(6))
        world.gate.revoke(GRANT, EXPIRY_MS)
        result = session.command(1, Store.encode(), b"x" * 512)
        assert (result.status, result.sense[2] & 0xF, result.sense[12], result.sense[13]) == (2, *DENIED)
        server.views_changed()
        assert eventually(lambda: not server.sessions())
        session.close()
        assert world.drives[1].kept == b""
        with pytest.raises(InitiatorError):
            login(portal, world.key())
