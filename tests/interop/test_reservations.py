"""RESERVE (6) of one initiator shuts the other out of every device, until each of the things that SPC-2 lets end it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession, TaskManagementOutcome
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import (
    MODE_SENSE_6,
    RELEASE_6,
    RESERVATION_CONFLICT,
    RESERVE_6,
    Device,
    inquiry,
    is_unit_attention,
    mode_select_6,
    move_medium,
    write_6,
    write_10,
)
from tests.support.waiting import eventually

OWNER, OTHER = "iqn.2026-01.org.example:owner", "iqn.2026-01.org.example:other"
DEVICES = ("disk", "drive0", "changer")
# What the other initiator tries on each device, beside MODE SELECT.
ATTEMPTS = {
    "disk": (write_10(0, 1), bytes(512)),
    "drive0": (write_6(100), bytes(100)),
    "changer": (move_medium(0, 1), None),
}
ALLOWED_TO_ALL = (inquiry(), bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), RELEASE_6)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    packages.require("libiscsi7")
    folder: Path = tmp_path_factory.mktemp("reservations")
    with Appliance.with_loaded_drive(folder, disks=[Disk("disk", "16 MiB")]) as running:
        yield running


class Pair:
    """Two initiators' sessions with one target."""

    def __init__(self, appliance: Appliance, stack: ExitStack) -> None:
        self.appliance = appliance
        self.owner, self.other = (
            stack.enter_context(InitiatorSession(appliance.portal, appliance.target_name, initiator_name=name))
            for name in (OWNER, OTHER)
        )

    def device(self, session: InitiatorSession, name: str) -> Device:
        return Device(session, self.appliance.lun(name))

    def is_shut_out(self, name: str) -> bool:
        """Whether the other initiator meets a RESERVATION CONFLICT; unit attentions are passed over."""
        lun = self.appliance.lun(name)
        result = self.other.command(lun, MODE_SENSE_6, data_in_length=255)
        while is_unit_attention(result):
            result = self.other.command(lun, MODE_SENSE_6, data_in_length=255)
        assert result.status in (0, RESERVATION_CONFLICT)
        return result.status == RESERVATION_CONFLICT


@pytest.fixture
def pair(appliance: Appliance) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(appliance, stack)


@pytest.mark.parametrize("name", DEVICES)
def test_the_other_initiator_is_shut_out(pair: Pair, name: str) -> None:
    owner, other = pair.device(pair.owner, name), pair.device(pair.other, name)
    saved = other.good(MODE_SENSE_6, data_in_length=255)
    owner.good(RESERVE_6)
    cdb, data = ATTEMPTS[name]
    assert other.command(cdb, data).status == RESERVATION_CONFLICT
    assert other.command(mode_select_6(len(saved)), bytes(len(saved))).status == RESERVATION_CONFLICT
    assert other.command(RESERVE_6).status == RESERVATION_CONFLICT
    for allowed in ALLOWED_TO_ALL:
        assert other.command(allowed, data_in_length=0 if allowed == RELEASE_6 else 255).status == 0
    # RELEASE by who does not hold it is GOOD and does nothing (SPC-2 7.16.2).
    assert other.command(RESERVE_6).status == RESERVATION_CONFLICT
    owner.good(RESERVE_6)
    owner.good(RELEASE_6)
    other.good(RESERVE_6)
    assert owner.command(RESERVE_6).status == RESERVATION_CONFLICT
    other.good(RELEASE_6)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda pair, lun: pair.owner.logout(), id="logout"),
        pytest.param(lambda pair, lun: pair.owner.close(), id="connection lost"),
        pytest.param(lambda pair, lun: pair.owner.logical_unit_reset(lun), id="logical unit reset"),
        pytest.param(lambda pair, lun: pair.other.logical_unit_reset(lun), id="logical unit reset by the other"),
        pytest.param(lambda pair, lun: pair.other.target_reset(), id="target reset"),
    ],
)
def test_a_reservation_ends(pair: Pair, name: str, end: Callable[[Pair, int], object]) -> None:
    pair.device(pair.owner, name).good(RESERVE_6)
    pair.device(pair.other, name)
    assert pair.is_shut_out(name)
    answer = end(pair, pair.appliance.lun(name))
    assert answer in (None, TaskManagementOutcome.FUNCTION_COMPLETE)
    if pair.owner.closed:
        # The target may see the end of the connection a moment after this side does.
        eventually(lambda: not pair.is_shut_out(name))
    assert not pair.is_shut_out(name)
