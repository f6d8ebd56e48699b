"""What initiators can make a logical unit keep: counted, checked, and gone with the nexus."""

import sys
from dataclasses import replace

import pytest

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.reservations import MAX_REGISTRATIONS, Reservations, ReservationType
from scsi_targets.devices.unit.task import MAX_NAME_BYTES, Nexus
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import sense, spc
from tests.unit.devices.support import ALPHA, BETA, TARGET, data_of, send, sense_of

GAMMA = "iqn.2026-11.test:gamma"
ISID = "00023d000001"


class Sample(Device):
    device_type = 0


@pytest.fixture
def unit():
    device = Sample(Identity("TAPEBAY", "SAMPLE", "0001", "S1"))
    device.attach()
    for nexus in (ALPHA, BETA):
        device.nexus_established(nexus)
        send(device, bytes(6), nexus=nexus)
    yield device
    device.close()


def out(unit, action, key=0, action_key=0, type_=0, aptpl=0, nexus=ALPHA):
    data = key.to_bytes(8, "big") + action_key.to_bytes(8, "big") + bytes(4) + bytes([aptpl, 0, 0, 0])
    return send(unit, bytes([0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0]), nexus=nexus, data=data)


def transport_id(name: bytes, *, first: int = 0x45) -> bytes:
    padded = (name + b"\0").ljust((len(name) + 4) // 4 * 4, b"\0")
    return bytes([first, 0]) + (len(padded) & 0xFFFF).to_bytes(2, "big") + padded


def move(unit, to: bytes, *, key=1, new_key=7, port=1, unregister=0, aptpl=0, length=None):
    data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes([0, unregister << 1 | aptpl])
    data += port.to_bytes(2, "big") + (len(to) if length is None else length).to_bytes(4, "big") + to
    cdb = spc.RegisterAndMove.encode(parameter_list_length=len(data))
    return send(unit, cdb, data=data, view=View(ALPHA.principal, TARGET, {0: unit}, (1, 2)))


def hold(unit) -> None:
    """ALPHA registers key 1 and reserves."""
    assert out(unit, 0, action_key=1).status == 0
    assert out(unit, 1, key=1, type_=3).status == 0


def full_status(unit) -> bytes:
    return data_of(send(unit, spc.ReadFullStatus.encode(allocation_length=0xFFFF)))


def test_register_and_move_to_a_port_that_has_not_logged_in(unit):
    hold(unit)
    name = f"{GAMMA},i,0x{ISID}".encode()
    assert move(unit, transport_id(name), port=2).status == 0
    assert name in full_status(unit)
    assert unit.reservations.holder == Nexus(GAMMA, bytes.fromhex(ISID), TARGET, 2)


@pytest.mark.parametrize(
    "to",
    [
        transport_id(b"x" * 12_000_000 + b",i,0x" + ISID.encode()),
        transport_id(b"x" * (MAX_NAME_BYTES + 1) + b",i,0x" + ISID.encode()),
        transport_id(b",i,0x" + ISID.encode()),
        transport_id(f"{GAMMA},i,0x{ISID}00".encode()),
        transport_id(f"{GAMMA},i,0x{ISID[2:]}".encode()),
        transport_id(f"{GAMMA},i,0x00 23d00001".encode()),
        transport_id(f"{GAMMA},i,0x".encode()),
        transport_id(GAMMA.encode()),
        transport_id(b"\xff\xfe" + f"{GAMMA},i,0x{ISID}".encode()),
        transport_id(f"{GAMMA},i,0x{ISID}".encode(), first=0x05),
        transport_id(f"{GAMMA},i,0x{ISID}".encode(), first=0x46),
        transport_id(f"{GAMMA},i,0x{ISID}".encode()) + bytes(4),
        transport_id(f"{GAMMA},i,0x{ISID}".encode())[:-4],
        transport_id(f"{GAMMA},i,0x{ISID}".encode()).replace(b"\0\0", b"\0x"),
        b"",
    ],
    ids=lambda to: f"{len(to)}-{to[:1].hex()}-{to[4:12].hex()}",
)  # fmt: skip
def test_a_transport_id_that_names_no_initiator_port_is_refused(unit, to):
    hold(unit)
    before = full_status(unit)
    key, asc, _ = sense_of(move(unit, to, aptpl=1))
    assert (key, asc) in ((5, 0x26), (5, 0x1A))
    assert full_status(unit) == before
    assert unit.store.get("/reservations") is None


def test_the_longest_name_is_taken(unit):
    hold(unit)
    name = b"i" * MAX_NAME_BYTES + f",i,0x{ISID}".encode()
    assert move(unit, transport_id(name)).status == 0
    assert name in full_status(unit)


@pytest.mark.parametrize("port", [0, 3, 0xFFFF])
def test_register_and_move_through_a_port_that_the_target_does_not_have(unit, port):
    hold(unit)
    response = move(unit, transport_id(f"{GAMMA},i,0x{ISID}".encode()), port=port)
    assert sense_of(response) == (5, 0x26, 0)
    assert response.sense[16:18] == (18).to_bytes(2, "big")


def test_a_length_that_disagrees(unit):
    hold(unit)
    to = transport_id(f"{GAMMA},i,0x{ISID}".encode())
    assert sense_of(move(unit, to, length=len(to) + 4)) == (5, 0x1A, 0)
    assert sense_of(move(unit, to, length=len(to) - 4)) == (5, 0x1A, 0)


def test_registrations_are_counted_however_they_are_made(unit):
    hold(unit)
    for number in range(MAX_REGISTRATIONS - 1):
        nexus = Nexus(GAMMA, number.to_bytes(6, "big"), TARGET)
        assert out(unit, 0, action_key=2, nexus=nexus).status == 0
    one_more = Nexus(GAMMA, bytes(5) + b"\xff", TARGET, 2)
    assert sense_of(out(unit, 0, action_key=2, nexus=one_more)) == (5, 0x55, 4)
    assert sense_of(out(unit, 6, action_key=2, nexus=one_more)) == (5, 0x55, 4)
    to = transport_id(f"{GAMMA},i,0x{ISID}".encode())
    assert sense_of(move(unit, to, port=2)) == (5, 0x55, 4)
    assert unit.reservations.holder == ALPHA
    assert len(full_status(unit)) > 8 + MAX_REGISTRATIONS * 24


def test_nothing_is_kept_for_a_nexus_that_is_not_logged_in(unit):
    for number in range(50):
        hold(unit)
        port = Nexus(GAMMA, number.to_bytes(6, "big"), TARGET)
        assert move(unit, transport_id(port.initiator_port.encode()), new_key=9).status == 0
        assert out(unit, 4, key=1, action_key=9, type_=3).status == 0
        assert out(unit, 3, key=1).status == 0
    assert set(unit.attentions.waiting) <= {ALPHA, BETA}
    assert not unit.reservations.registrations


def test_logins_leave_nothing_behind(unit):
    unit.nexus_lost(BETA)
    sizes = {name: len(value) for name, value in vars(unit).items() if isinstance(value, dict | set | list)}
    for number in range(100):
        nexus = Nexus(GAMMA, number.to_bytes(6, "big"), TARGET)
        unit.nexus_established(nexus)
        unit.tell_others(None, sense.MODE_PARAMETERS_CHANGED)
        unit.nexus_lost(nexus)
    send(unit, bytes(6))
    assert {n: len(v) for n, v in vars(unit).items() if isinstance(v, dict | set | list)} == sizes


def test_an_impossible_registration_of_an_old_state_is_forgotten():
    state = {
        "type": 3,
        "registrations": [
            {
                "initiator_name": "x" * 4096, "isid": "", "target_name": TARGET, "portal_group_tag": 1, "key": 7,
                "holder": True,
            },
            {
                "initiator_name": GAMMA, "isid": ISID, "target_name": TARGET, "portal_group_tag": 1, "key": 8,
                "holder": False,
            },
        ],
    }  # fmt: skip
    read = Reservations.from_state(state)
    assert list(read.registrations.values()) == [8]
    assert (read.holder, read.type) == (None, None)


# ---- SPEC_I_PT -------------------------------------------------------------------------------------------------------


def register_others(unit, ids: bytes, *, key=0, new_key=5, action=0, aptpl=0, length=None, nexus=ALPHA):
    """REGISTER with SPEC_I_PT and that list of TransportIDs."""
    data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes([0, 0, 0, 0, 0x08 | aptpl, 0, 0, 0])
    data += (len(ids) if length is None else length).to_bytes(4, "big") + ids
    cdb = bytes([0x5F, action, 0, 0, 0]) + len(data).to_bytes(4, "big") + b"\0"
    return send(unit, cdb, data=data, nexus=nexus)


def test_spec_i_pt_registers_others_with_the_same_key(unit):
    """SPC-4 table 45; those that are registered already keep their key, who has not come yet is expected."""
    assert out(unit, 0, action_key=9, nexus=BETA).status == 0
    absent = f"{GAMMA},i,0x{ISID}"
    ids = transport_id(BETA.initiator_port.encode()) + transport_id(absent.upper().replace("I,0X", "i,0x").encode())
    assert register_others(unit, ids).status == 0
    assert unit.reservations.registrations == {
        BETA: 9, ALPHA: 5, Nexus(GAMMA, bytes.fromhex(ISID), TARGET): 5,
    }  # fmt: skip
    assert data_of(send(unit, spc.ReadKeys.encode(allocation_length=8)))[:4] == (2).to_bytes(4, "big")


def test_a_name_without_isid_means_all_known_ports_of_that_initiator(unit):
    second = replace(BETA, isid=bytes(5) + b"\x02")
    elsewhere = replace(BETA, portal_group_tag=2)
    for nexus in (second, elsewhere):
        unit.nexus_established(nexus)
    assert register_others(unit, transport_id(BETA.initiator_name.encode(), first=0x05)).status == 0
    assert unit.reservations.registrations == {ALPHA: 5, BETA: 5, second: 5}


@pytest.mark.parametrize(
    ("ids", "options", "asc"),
    [
        (b"", {"length": 4}, 0x1A),
        (transport_id(b"name,i,0x" + ISID.encode())[:-4], {}, 0x26),
        (transport_id(b"name,i,0x" + ISID.encode()) + bytes(4), {}, 0x1A),
        (transport_id(b"name,i,0x" + ISID.encode()) + bytes(24), {}, 0x26),
        (transport_id(b"name,i,0x" + ISID.encode(), first=0x05), {}, 0x26),
        (transport_id(b"name"), {}, 0x26),
        (transport_id(b"name,i,0x" + ISID.encode()), {"action": 6}, 0x26),
        (transport_id(b"x" * 300 + b",i,0x" + ISID.encode()) * 300, {}, 0x1A),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_a_list_of_others_that_is_none_registers_nobody(unit, ids, options, asc):
    assert sense_of(register_others(unit, ids, aptpl=1, **options))[:2] == (5, asc)
    assert not unit.reservations.registrations
    assert unit.store.get("/reservations") is None


def test_who_is_registered_does_not_register_others(unit):
    assert out(unit, 0, action_key=1).status == 0
    ids = transport_id(BETA.initiator_port.encode())
    assert sense_of(register_others(unit, ids, key=1)) == (5, 0x26, 0)
    assert register_others(unit, ids, key=2).status == 0x18
    assert unit.reservations.registrations == {ALPHA: 1}


def test_all_or_none_when_the_room_ends(unit):
    for number in range(MAX_REGISTRATIONS - 2):
        assert out(unit, 0, action_key=2, nexus=Nexus(GAMMA, number.to_bytes(6, "big"), TARGET)).status == 0
    before = dict(unit.reservations.registrations)
    ids = b"".join(transport_id(f"other{number},i,0x{ISID}".encode()) for number in range(2))
    assert sense_of(register_others(unit, ids)) == (5, 0x55, 4)
    assert unit.reservations.registrations == before
    assert register_others(unit, transport_id(f"other,i,0x{ISID}".encode())).status == 0


def test_a_long_list_costs_a_look_for_each_name(unit):
    """As many names as a list holds, while as many nexuses are known: neither memory nor time for each pair of them."""
    for number in range(300):
        unit.nexus_established(Nexus(GAMMA, number.to_bytes(6, "big"), TARGET))
    same = transport_id(GAMMA.encode(), first=0x05)
    assert sense_of(register_others(unit, same * 1000)) == (5, 0x55, 4)
    short = [transport_id(f"n{number},i,0x{ISID}".encode()) for number in range(1500)]
    called = []
    sys.setprofile(lambda frame, event, _: called.append(1) if event == "call" else None)
    try:
        response = register_others(unit, b"".join(short))
    finally:
        sys.setprofile(None)
    assert sense_of(response) == (5, 0x55, 4)
    assert len(called) < 100 * (MAX_REGISTRATIONS + 300)
    assert not unit.reservations.registrations


def test_capabilities_say_that_others_can_be_specified(unit):
    data = data_of(send(unit, bytes([0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0])))
    assert data[2] & 0x08


# ---- principals ------------------------------------------------------------------------------------------------------


def as_account(nexus: Nexus, user: str) -> Nexus:
    return replace(nexus, principal=Principal.account(user))


def test_the_name_and_isid_of_another_principal_inherit_nothing(unit):
    hold(unit)
    impostor = as_account(ALPHA, "mallory")
    unit.nexus_lost(ALPHA)
    unit.nexus_established(impostor)
    assert sense_of(send(unit, bytes(6), nexus=impostor)) == (6, 0x29, 0)
    assert out(unit, 2, key=1, type_=3, nexus=impostor).status == 0x18
    unit.nexus_established(ALPHA)
    assert sense_of(send(unit, bytes(6))) == (6, 0x29, 0)
    assert out(unit, 2, key=1, type_=3).status == 0


@pytest.mark.parametrize("logged_in", [True, False])
def test_register_and_move_finds_the_principal_behind_a_port(unit, logged_in):
    """One that is logged in is known; another is expected as the account of whoever names it."""
    owner, heir = as_account(ALPHA, "cluster"), as_account(BETA, "other" if logged_in else "cluster")
    for nexus in (ALPHA, BETA):
        unit.nexus_lost(nexus)
    unit.nexus_established(owner)
    if logged_in:
        unit.nexus_established(heir)
    while unit.take_unit_attention(owner):
        pass
    assert out(unit, 0, action_key=1, nexus=owner).status == 0
    assert out(unit, 1, key=1, type_=3, nexus=owner).status == 0
    port = transport_id(BETA.initiator_port.encode())
    data = (1).to_bytes(8, "big") + (7).to_bytes(8, "big") + bytes([0, 0, 0, 1]) + len(port).to_bytes(4, "big") + port
    view = View(owner.principal, TARGET, {0: unit})
    cdb = spc.RegisterAndMove.encode(parameter_list_length=len(data))
    assert send(unit, cdb, data=data, nexus=owner, view=view).status == 0
    assert unit.reservations.holder == heir


def test_the_kept_registrations_say_whose_they_are():
    kept = Reservations()
    owner = as_account(ALPHA, "backup")
    kept.register(owner, 0, 1, ignore_existing=False, aptpl=True)
    again = Reservations.from_state(kept.to_state())
    assert again.registrations == {owner: 1}
    assert ALPHA not in again.registrations


def test_a_registration_from_before_principals_belongs_to_whoever_comes_first_through_its_ports():
    kept = Reservations()
    kept.register(ALPHA, 0, 1, ignore_existing=False, aptpl=True)
    kept.reserve_persistent(ALPHA, 1, ReservationType.EXCLUSIVE_ACCESS)
    state = kept.to_state()
    for row in state["registrations"]:
        del row["principal"]
    again = Reservations.from_state(state)
    owner = as_account(ALPHA, "backup")
    again.recognise(BETA)
    assert again.holder != BETA
    again.recognise(owner)
    again.recognise(ALPHA)
    assert (again.registrations, again.holder) == ({owner: 1}, owner)


@pytest.mark.parametrize("type_", list(ReservationType))
def test_an_operator_withdraws_what_nexuses_have(type_: ReservationType) -> None:
    held = Reservations()
    for nexus, key in ((ALPHA, 1), (BETA, 2)):
        held.register(nexus, 0, key, ignore_existing=False, aptpl=True)
    held.reserve_persistent(ALPHA, 1, type_)
    generation = held.generation
    lost, released = held.withdraw([ALPHA])
    assert (lost, held.registrations, held.generation) == ({ALPHA}, {BETA: 2}, generation + 1)
    assert held.is_holder(BETA) is type_.all_registrants
    assert released == ({BETA} if type_.registrants and not type_.all_registrants else set())
    held.withdraw([BETA])
    assert (held.type, held.holder, held.registrations, held.to_state()) == (None, None, {}, None)


def test_an_operator_withdraws_a_reserve() -> None:
    held = Reservations()
    held.reserve(ALPHA)
    assert held.withdraw([BETA]) == ({BETA}, set())
    assert held.legacy_holder == ALPHA
    assert held.withdraw([ALPHA]) == ({ALPHA}, set())
    assert held.legacy_holder is None
