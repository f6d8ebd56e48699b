"""Zones that share no device: every page, count, status and sense byte of one is the same, whatever the other does.

Each zone is a whole library: a partition with its changer, slots, import/export element and drive, and a disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.pdu import TaskFunction
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import smc, spc, ssc
from tests.property.access.site import ALICE, BOB, PARTITIONS, Play, Step
from tests.support.scsi import inquiry, read_10, write_10

BLOCK = b"\xa5" * 512
DISK_NAMES = [Identity("TAPEBAY", "DISK", "1", f"SERIAL{name}").naa for name in "ab"]
LEFT_LUNS, RIGHT_LUNS = (0, 2, 5), (1, 3, 300)
ZONES = [({ALICE}, False, ["left", "drive0", "a"]), ({BOB}, False, ["right", "drive1", "b"])]
ADDRESSES = sorted({a for p in PARTITIONS for _, run in p.layout.ranges() for a in run} | {4101, 17, 257})
VPD_PAGES = (0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2, 0xB3, 0xB4, 0xC0)
LOG_PAGES = (0x00, 0x02, 0x03, 0x0C, 0x11, 0x12, 0x14, 0x17, 0x19, 0x1B, 0x2E, 0x30, 0x31)

Command = tuple[bytes, bytes | None]


def copied() -> Command:
    """From the disk of the left zone to that of the right one, whoever asks."""
    cscds = [copy.identification_descriptor(naa, device_type=0, block_length=512) for naa in DISK_NAMES]
    data = copy.parameter_list(cscds, [copy.BlockToBlock.encode(source=0, destination=1, number_of_blocks=1)])
    return copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data


FIXED: list[Command] = [
    (bytes(6), None),
    (inquiry(), None),
    *((bytes([0x12, 1, page, 4, 0, 0]), None) for page in VPD_PAGES),
    (spc.ReportLuns.encode(allocation_length=4096), None),
    (bytes([0x1A, 0, 0x3F, 0, 255, 0]), None),  # MODE SENSE, all pages
    (bytes([0x5A, 0, 0x3F, 0xFF, 0, 0, 0, 4, 0, 0]), None),
    *((bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 8, 0, 0]), None) for page in LOG_PAGES),
    (bytes([0x03, 0, 0, 0, 252, 0]), None),  # REQUEST SENSE
    *((bytes([0x5E, action, 0, 0, 0, 0, 0, 4, 0, 0]), None) for action in range(4)),  # PERSISTENT RESERVE IN
    (read_10(0, 1), None),
    (write_10(0, 1), BLOCK),
    (read_10(1 << 20, 1), None),
    (spc.Reserve6.encode(), None),
    (spc.Release6.encode(), None),
    (bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), bytes(8) + b"\x11" * 8 + bytes(8)),  # REGISTER
    (bytes([0x5F, 1, 3, 0, 0, 0, 0, 0, 24, 0]), b"\x11" * 8 + bytes(16)),  # RESERVE, exclusive access
    (bytes([0x5F, 3, 0, 0, 0, 0, 0, 0, 24, 0]), b"\x11" * 8 + bytes(16)),  # CLEAR
    (bytes([0x1E, 0, 0, 0, 1, 0]), None),  # PREVENT
    (bytes([0x1E, 0, 0, 0, 0, 0]), None),
    (ssc.Rewind.encode(), None),
    (ssc.Write6.encode(transfer_length=512), BLOCK),
    (ssc.Read6.encode(transfer_length=512), None),
    (ssc.WriteFilemarks6.encode(filemark_count=1), None),
    (ssc.LoadUnload.encode(load=0), None),
    (ssc.LoadUnload.encode(load=1), None),
    (bytes([0x34, 6, 0, 0, 0, 0, 0, 0, 0, 0]), None),  # READ POSITION
    (bytes([0x8C, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]), None),  # READ ATTRIBUTE
    (smc.ReadElementStatus.encode(volume_tag=1, number_of_elements=0xFFFF, allocation_length=0xFFFF), None),
    (smc.ReadElementStatus.encode(device_identifier=1, number_of_elements=0xFFFF, allocation_length=0xFFFF), None),
    (bytes([0x07, 0, 0, 0, 0, 0]), None),  # INITIALIZE ELEMENT STATUS
    copied(),
    (bytes([0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]), None),  # RECEIVE COPY OPERATING PARAMETERS
    (bytes([0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0]), None),  # REPORT SUPPORTED OPERATION CODES
    (bytes([0xEE]) + bytes(15), None),
]
MOVES = st.builds(
    lambda source, destination: (
        smc.MoveMedium.encode(source_element_address=source, destination_element_address=destination), None,
    ),
    st.sampled_from(ADDRESSES),
    st.sampled_from(ADDRESSES),
)  # fmt: skip
TASK_FUNCTIONS = st.sampled_from(
    [
        TaskFunction.LOGICAL_UNIT_RESET,
        TaskFunction.TARGET_WARM_RESET,
        TaskFunction.TARGET_COLD_RESET,
        TaskFunction.CLEAR_TASK_SET,
        TaskFunction.ABORT_TASK_SET,
    ]
)
LUNS = st.sampled_from([*LEFT_LUNS, *RIGHT_LUNS, 4])
STEPS = st.lists(st.tuples(LUNS, st.sampled_from(FIXED) | MOVES | TASK_FUNCTIONS), max_size=30)
# One robot serves both; moves of theirs are likelier than of all addresses.
LOADS: list[Step] = [
    (0, (smc.MoveMedium.encode(source_element_address=4096, destination_element_address=256), None)),
    (1, (smc.MoveMedium.encode(source_element_address=1001, destination_element_address=1), None)),
]


def answers_of_alice(mine: Sequence[Step], others: Sequence[Step]) -> list[Any]:
    """What is answered to alice in the left zone, while bob's commands go to the right one."""
    alice, bob = Principal.initiator(ALICE), Principal.initiator(BOB)
    with Play(ZONES, (alice, bob)) as play:
        for number in range(max(len(mine), len(others))):
            for step in others[number : number + 1]:
                play.perform(bob, step)
            for step in mine[number : number + 1]:
                play.perform(alice, step)
        return play.answers[alice]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(mine=STEPS, others=STEPS, loaded=st.booleans())
def test_zones_that_share_nothing_do_not_show_in_each_other(
    mine: Sequence[Step], others: Sequence[Step], loaded: bool
) -> None:
    begin = [LOADS[0]] if loaded else []
    first = answers_of_alice([*begin, *mine], [*([LOADS[1]] if loaded else []), *others])
    assert first == answers_of_alice([*begin, *mine], [])


def test_everything_that_one_can_ask_while_the_other_does_everything() -> None:
    """Each page and command once, to each of her devices, while bob has loaded, written, reserved and moved."""
    mine: list[Step] = [LOADS[0], *((lun, what) for what in FIXED for lun in LEFT_LUNS)]
    others: list[Step] = [LOADS[1], *((lun, what) for what in FIXED for lun in (*RIGHT_LUNS, *LEFT_LUNS))]
    alone = answers_of_alice(mine, [])
    assert answers_of_alice(mine, others) == alone
    assert sum(answer[0] == 0 for answer in alone) > 60


def test_there_is_a_difference_where_something_is_shared() -> None:
    """The test's own test: a zone that does share a device shows what happens to it."""
    ZONES[1][2].append("a")
    try:
        reads = [(5, (read_10(0, 1), None))] * 4
        assert answers_of_alice(reads, [(5, (bytes(6), None)), (5, (write_10(0, 1), BLOCK))]) != answers_of_alice(
            reads, []
        )
    finally:
        ZONES[1][2].remove("a")
