"""A hostile initiator in a zone of its own: whatever commands it sends, nothing of another zone can be read, written,
moved, reset or even seen.

Alice has a library with secrets in it. Mallory sends any CDB to any LUN, names any element address, persistent
reservation, copy descriptor and task management function. Afterwards alice is told what she would be told without
mallory, byte for byte, and mallory has been told nothing that is alice's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsi_targets.devices.unit.dispatch import all_rows
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.pdu import TaskFunction
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import smc, ssc
from tests.property.access.site import ALICE, BARCODES, BOB, LUNS, NAMES, PARTITIONS, Play, Step, Zones
from tests.property.access.test_non_interference import FIXED, LEFT_LUNS
from tests.support.scsi import write_10

VICTIM, HOSTILE = Principal.initiator(ALICE), Principal.initiator(BOB)
APART: Zones = [({ALICE}, False, ["left", "drive0", "a"]), ({BOB}, False, ["right", "drive1", "b"])]
# The disk is hers and his, the rest is not.
ONE_SHARED: Zones = [({ALICE}, False, ["left", "drive0", "a"]), ({BOB}, False, ["right", "drive1", "b", "a"])]
CHANGER, DRIVE, DISK = LEFT_LUNS
SECRET = b"what only alice may know"
KEY = b"\x00alices!"
PRIVATE_COPY = copy.parameter_list(
    [copy.identification_descriptor(Identity("TAPEBAY", "DISK", "1", "SERIALa").naa, device_type=0, block_length=512)]
    * 2,
    [copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=1, destination_logical_block_address=8)],
    list_identifier=77,
)
BEFORE: list[Step] = [
    (CHANGER, (smc.MoveMedium.encode(source_element_address=4096, destination_element_address=256), None)),
    (DRIVE, (bytes(6), None)),  # 28/00
    (DRIVE, (ssc.Write6.encode(transfer_length=len(SECRET)), SECRET)),
    (DRIVE, (ssc.WriteFilemarks6.encode(filemark_count=1), None)),
    (DRIVE, (bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), bytes(8) + KEY + bytes(8))),
    (DRIVE, (bytes([0x5F, 1, 3, 0, 0, 0, 0, 0, 24, 0]), KEY + bytes(16))),
    (DRIVE, (bytes([0x1E, 0, 0, 0, 1, 0]), None)),  # PREVENT
    (DISK, (write_10(0, 1), SECRET.ljust(512, b"\0"))),
    (DISK, (copy.ExtendedCopyLid1.encode(parameter_list_length=len(PRIVATE_COPY)), PRIVATE_COPY)),
    (CHANGER, (bytes([0x16, 0, 0, 0, 0, 0]), None)),  # RESERVE
]
AFTER: list[Step] = [
    (DISK, (bytes([0x84, 0x00, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]), None)),  # RECEIVE COPY STATUS
    *((lun, what) for what in FIXED for lun in LEFT_LUNS),
]
HIDDEN = {
    "barcodes": [barcode.encode() for barcode in BARCODES if barcode.startswith("LEF")],
    "serial numbers": [b"LIB_LEFT", b"10WT000000"],
    "her name": [ALICE.encode()],
    "her key": [KEY],
}
HIDDEN_APART = HIDDEN | {"her data": [SECRET], "the disk's name": [b"SERIALa"]}

# ---- what mallory tries ----------------------------------------------------------------------------------------------

ANY_LUN = st.sampled_from([*LUNS, 4, 255, 256, 16383])
ADDRESSES = sorted({a for p in PARTITIONS for _, run in p.layout.ranges() for a in run} | {*range(4096, 4108), 0xFFFF})


@cache
def commands() -> tuple[bytes, ...]:
    """Every command of every kind of device, with zeros in its fields."""
    with Play(APART, (VICTIM,)) as play:
        rows = [row for unit in play.site.units.values() for row in all_rows(unit.rows)]
        return tuple(sorted({bytes(row.command.encode()) for row in rows}))


@cache
def designators() -> tuple[tuple[int, int, bytes], ...]:
    """Code set, type and bytes of every name of every device."""
    with Play(APART, (VICTIM,)) as play:
        names: list[tuple[int, int, bytes]] = []
        for unit in play.site.units.values():
            identity = unit.identity
            names += [(1, 3, identity.naa), (2, 1, identity.t10_vendor_identifier)]
            names += [(2, 0, identity.serial_number.encode()), (3, 8, b"iqn.2026-11.io.tapebay:library\0\0")]
        return tuple(names)


@st.composite
def any_fields(draw: st.DrawFn) -> tuple[bytes, bytes | None]:
    """A command that there is, with anything in its fields; or an operation code that there is not."""
    command = draw(st.sampled_from(commands()) | st.binary(min_size=6, max_size=16))
    noise = draw(st.binary(min_size=16, max_size=16))
    mask = draw(st.sampled_from([b"", b"\x00\x00" + b"\xff" * 8, b"\x00\xe0" + b"\xff" * 14, b"\x00\x00\xff"]))
    cdb = bytearray(command.ljust(16, b"\0"))
    for at, bits in enumerate(mask):
        cdb[at] |= noise[at] & bits
    return bytes(cdb), draw(st.none() | st.binary(max_size=64))


@st.composite
def moves(draw: st.DrawFn) -> tuple[bytes, None]:
    one, two, three, transport = (draw(st.sampled_from(ADDRESSES)) for _ in range(4))
    return draw(
        st.sampled_from(
            [
                smc.MoveMedium.encode(source_element_address=one, destination_element_address=two),
                smc.ExchangeMedium.encode(
                    source_element_address=one, first_destination_element_address=two,
                    second_destination_element_address=three,
                ),
                smc.PositionToElement.encode(transport_element_address=transport, destination_element_address=one),
                smc.ReadElementStatus.encode(
                    volume_tag=1, device_identifier=1, starting_element_address=one, number_of_elements=0xFFFF,
                    allocation_length=0xFFFF,
                ),
                smc.RequestVolumeElementAddress.encode(
                    starting_element_address=one, number_of_elements=0xFFFF, allocation_length=0xFFFF, volume_tag=1
                ),
            ]
        )
    ), None  # fmt: skip


@st.composite
def searches(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """SEND VOLUME TAG: look for her cartridges by name."""
    template = draw(st.sampled_from([b"LEF001L6", b"L*", b"*", b"???????6"])).ljust(32)
    action = draw(st.integers(0, 15))
    return smc.SendVolumeTag.encode(send_action_code=action, parameter_list_length=40), template + bytes(8)


def transport_id(name: str, isid: bytes | None) -> bytes:
    text = name.encode() if isid is None else f"{name},i,0x{isid.hex()}".encode()
    padded = (text + b"\0").ljust((len(text) + 4) // 4 * 4, b"\0")
    return bytes([0x05 if isid is None else 0x45, 0]) + len(padded).to_bytes(2, "big") + padded


@st.composite
def persistent_reservations(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Every service action, with her key and her initiator ports."""
    action, type_ = draw(st.integers(0, 9)), draw(st.integers(0, 15))
    keys = [draw(st.sampled_from([bytes(8), KEY, b"mallory!"])) for _ in range(2)]
    isids = st.none() | st.just(bytes(6))
    ids = b"".join(draw(st.lists(st.builds(transport_id, st.sampled_from(NAMES), isids), max_size=3)))
    flags = draw(st.integers(0, 15))
    if action == 7:
        data = b"".join(keys) + bytes([0, flags, 0, 1]) + len(ids).to_bytes(4, "big") + ids
    else:
        data = b"".join(keys) + bytes([0, 0, 0, 0, flags, 0, 0, 0])
        data += len(ids).to_bytes(4, "big") + ids if flags & 8 else b""
    return bytes([0x5F, action, type_, 0, 0]) + len(data).to_bytes(4, "big") + b"\0", data


@st.composite
def copies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """From and to anything that has a name, in either form of the command."""
    cscds = []
    for code_set, kind, name in draw(st.lists(st.sampled_from(designators()), min_size=1, max_size=3)):
        device_type = draw(st.sampled_from([0, 1]))
        cscds.append(
            copy.identification_descriptor(
                name[:20], device_type=device_type, designator_type=kind, code_set=code_set,
                block_length=0 if device_type else 512,
            )
        )  # fmt: skip
    ends = {"source": draw(st.integers(0, 2)), "destination": draw(st.integers(0, 2))}
    segment = draw(
        st.sampled_from(
            [
                copy.BlockToBlock.encode(**ends, number_of_blocks=1),
                copy.BlockToStream.encode(**ends, number_of_blocks=1, stream_device_transfer_length=512),
                copy.StreamToBlock.encode(**ends, number_of_blocks=1, stream_device_transfer_length=24),
                bytes([draw(st.integers(0, 255)), 0, 0, 24]) + draw(st.binary(min_size=24, max_size=24)),
            ]
        )
    )
    number = draw(st.sampled_from([0, 1, 77]))
    data = copy.parameter_list(cscds, [segment], list_identifier=number)
    return copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data


RESULTS = st.builds(
    lambda action, number: (bytes([0x84, action, number]) + bytes(7) + (512).to_bytes(4, "big") + bytes(2), None),
    st.integers(0, 31),
    st.sampled_from([0, 1, 77]),
)
TRICKS = (
    any_fields() | moves() | searches() | persistent_reservations() | copies() | RESULTS | st.sampled_from(FIXED)
    | st.sampled_from(list(TaskFunction))
)  # fmt: skip


# ---- the tests -------------------------------------------------------------------------------------------------------


def played(zones: Zones, tricks: Sequence[Step]) -> tuple[list[Any], list[Any]]:
    """What alice is told at the end, and all that mallory was told."""
    with Play(zones, (VICTIM, HOSTILE)) as play:
        for step in BEFORE:
            play.perform(VICTIM, step)
        refused = [step for step, answer in zip(BEFORE, play.answers[VICTIM], strict=True) if answer[0]]
        assert refused == BEFORE[1:2], "her secrets are in place"
        for step in tricks:
            play.perform(HOSTILE, step)
        play.answers[VICTIM].clear()
        for step in AFTER:
            if zones is APART or step[0] != DISK:
                play.perform(VICTIM, step)
        return play.answers[VICTIM], play.answers[HOSTILE]


@cache
def untouched(shared: bool) -> list[Any]:
    return played(ONE_SHARED if shared else APART, [])[0]


def leaks(tricks: Sequence[Step], answers: Sequence[Any], hidden: dict[str, list[bytes]]) -> list[str]:
    """What of hers is in what he was told. What he has said himself is no news: he may register a key like hers."""
    said = b"\n".join(part for answer in answers if isinstance(answer, tuple) for part in answer[1:])
    his = b"\n".join(what[1] or b"" for _, what in tricks if isinstance(what, tuple))
    return [name for name, secrets in hidden.items() if any(each in said and each not in his for each in secrets)]


@pytest.mark.timeout(400)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(ANY_LUN, TRICKS), min_size=1, max_size=40), st.booleans())
def test_nothing_of_another_zone_is_touched_or_seen(tricks: list[Step], shared: bool) -> None:
    hers, his = played(ONE_SHARED if shared else APART, tricks)
    assert hers == untouched(shared)
    assert leaks(tricks, his, HIDDEN if shared else HIDDEN_APART) == []


def test_every_command_to_every_number() -> None:
    """Each command that any device has, to each of her LUNs: he is answered as if there were nothing."""
    tricks: list[Step] = [(lun, (cdb, None)) for lun in LEFT_LUNS for cdb in commands()]
    nothing: list[Step] = [(4, what) for _, what in tricks]
    hers, his = played(APART, tricks)
    assert hers == untouched(False)
    assert his == played(APART, nothing)[1]


def test_a_leak_would_be_noticed() -> None:
    """The test's own test: who does see her drive reads her data, and is noticed."""
    zones: Zones = [APART[0], ({BOB}, False, ["drive0", "left"])]
    tricks: list[Step] = [(lun, what) for what in FIXED for lun in LEFT_LUNS]
    _, his = played(zones, tricks)
    assert leaks(tricks, his, HIDDEN) == ["barcodes", "serial numbers", "her name", "her key"]
