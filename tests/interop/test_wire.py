"""What libiscsi and a raw peer see of sessions with the live server.

Residuals, digests, every way to send data, task management.
"""

import itertools
from collections.abc import Iterator

import pytest
from scapy.packet import Raw

from datamover.initiator import InitiatorError, InitiatorSession, TaskManagementOutcome, discover
from tests.fuzz import layers
from tests.fuzz.peer import Peer
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import TEST_UNIT_READY, Device, inquiry, read_10, write_10

OPERATION_LENGTH = 512 * 1024
YES_NO = ("Yes", "No")


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    packages.require("libiscsi7")
    folder = tmp_path_factory.mktemp("wire")
    with Appliance.with_loaded_drive(folder, disks=[Disk("disk", "16 MiB")], portals=2) as running:
        yield running
        assert not running.problems(), running.log_text()


@pytest.fixture
def session(appliance: Appliance) -> Iterator[InitiatorSession]:
    with InitiatorSession(appliance.portal, appliance.target_name, timeout_seconds=60) as logged_in:
        yield logged_in


@pytest.fixture
def disk(appliance: Appliance, session: InitiatorSession) -> Device:
    return Device(session, appliance.lun("disk"))


def test_discovery_answers_both_portals(appliance: Appliance) -> None:
    (target,) = discover(appliance.portal)
    assert target.name == appliance.target_name
    assert sorted(target.addresses) == sorted(f"{portal},1" for portal in appliance.portals)


def test_an_underflow_and_an_overflow(disk: Device) -> None:
    whole = disk.command(inquiry(), data_in_length=255)
    assert (whole.status, whole.residual) == (0, 255 - len(whole.data))
    assert 36 <= len(whole.data) < 255
    # The CDB allows 255 bytes, the initiator takes 10: what did not fit is said (RFC 7143 11.4.5.1).
    cut = disk.command(inquiry(), data_in_length=10)
    assert (cut.status, bytes(cut.data), cut.residual) == (0, bytes(whole.data[:10]), 10 - len(whole.data))


def test_unknown_target_and_unknown_logical_unit(appliance: Appliance, session: InitiatorSession) -> None:
    with pytest.raises(InitiatorError, match=r"login: iqn\.x"):
        InitiatorSession(appliance.portal, "iqn.x", timeout_seconds=60)
    absent = session.command(77, inquiry(), data_in_length=255)
    assert (absent.status, absent.data[0]) == (0, 0x7F)  # SPC-4 6.6.1: peripheral qualifier 3, device type 1Fh
    refused = session.command(77, TEST_UNIT_READY)
    assert (refused.status, refused.sense[2] & 0x0F, refused.sense[12:14]) == (2, 5, b"\x25\x00")


@pytest.mark.parametrize("immediate", YES_NO)
@pytest.mark.parametrize("initial_r2t", YES_NO)
@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_every_way_to_send_data(appliance: Appliance, immediate: str, initial_r2t: str, digest: str) -> None:
    """A write of 512 KiB by hand.

    Immediate data, unsolicited Data-Out up to FirstBurstLength, the rest as R2Ts ask for it.
    """
    data = bytes(i * 11 + (i >> 9) & 0xFF for i in range(OPERATION_LENGTH))
    with Peer(("127.0.0.1", appliance.port)) as peer:
        keys = {"InitialR2T": initial_r2t, "ImmediateData": immediate, "FirstBurstLength": 65536}
        peer.login(appliance.target_name, HeaderDigest=digest, DataDigest=digest, MaxOutstandingR2T=4, **keys)
        assert (peer.header_digest, peer.data_digest) == (digest == "CRC32C",) * 2
        clear_unit_attentions(peer, appliance.lun("disk"))
        write(peer, appliance.lun("disk"), data, immediate=immediate == "Yes", unsolicited=initial_r2t == "No")
        assert read(peer, appliance.lun("disk"), len(data)) == data


def clear_unit_attentions(peer: Peer, lun: int) -> None:
    for _ in range(8):
        peer.send(peer.command(lun, TEST_UNIT_READY))
        if peer.receive().status == 0:
            return
    raise AssertionError("one unit attention after another")


def write(peer: Peer, lun: int, data: bytes, *, immediate: bool, unsolicited: bool) -> None:
    sent = 4096 if immediate else 0
    command = peer.command(
        lun, write_10(0, len(data) // 512), write=1, final=int(not unsolicited), expected_data_transfer_length=len(data)
    )
    peer.send(command / Raw(data[:sent]) if sent else command)
    if unsolicited:
        send_data_out(peer, command, data, sent, 65536 - sent, layers.NO_TAG)
    ready = 0
    while isinstance(answer := peer.receive(), layers.ReadyToTransfer):
        assert answer.r2t_sn == ready
        ready += 1
        wanted = answer.desired_data_transfer_length
        send_data_out(peer, command, data, answer.buffer_offset, wanted, answer.target_transfer_tag)
    assert (type(answer), answer.status, answer.residual_count) == (layers.ScsiResponse, 0, 0), answer
    assert ready >= 1


def send_data_out(
    peer: Peer, command: layers.ScsiCommand, data: bytes, offset: int, length: int, target_transfer_tag: int
) -> None:
    end = offset + length
    for number, start in enumerate(range(offset, end, 8192)):
        piece = data[start : min(start + 8192, end)]
        header = layers.DataOut(
            initiator_task_tag=command.initiator_task_tag,
            target_transfer_tag=target_transfer_tag,
            lun=command.lun,
            data_sn=number,
            buffer_offset=start,
            final=int(start + len(piece) == end),
            exp_stat_sn=peer.exp_stat_sn,
        )
        peer.send(header / Raw(piece))


def read(peer: Peer, lun: int, length: int) -> bytes:
    command = peer.command(lun, read_10(0, length // 512), read=1, expected_data_transfer_length=length)
    peer.send(command)
    data = bytearray()
    for number in itertools.count():
        answer = peer.receive()
        if isinstance(answer, layers.ScsiResponse):
            assert answer.status == 0
            return bytes(data)
        assert (answer.data_sn, answer.buffer_offset) == (number, len(data))
        data += answer.data
        if answer.has_status:
            assert (answer.final, answer.status) == (1, 0)
            return bytes(data)
    raise AssertionError("unreachable")


def test_task_management_answers(appliance: Appliance, session: InitiatorSession, disk: Device) -> None:
    lun = appliance.lun("disk")
    assert session.logical_unit_reset(lun) is TaskManagementOutcome.FUNCTION_COMPLETE
    assert session.abort_task_set(lun) is TaskManagementOutcome.FUNCTION_COMPLETE
    assert session.clear_task_set(lun) is TaskManagementOutcome.FUNCTION_COMPLETE
    assert session.logical_unit_reset(77) is TaskManagementOutcome.LUN_DOES_NOT_EXIST
    assert session.target_reset() is TaskManagementOutcome.FUNCTION_COMPLETE


def test_a_cold_reset_ends_every_session(appliance: Appliance) -> None:
    with InitiatorSession(appliance.portal, appliance.target_name, timeout_seconds=60) as other:
        other.ping()
        one = InitiatorSession(appliance.portal, appliance.target_name, timeout_seconds=60)
        one.target_reset(cold=True)
        for session in (one, other):
            with pytest.raises(InitiatorError):
                session.command(appliance.lun("disk"), TEST_UNIT_READY)


def test_commands_in_flight_through_both_portals(appliance: Appliance) -> None:
    lun = appliance.lun("disk")
    sessions = [InitiatorSession(portal, appliance.target_name, timeout_seconds=60) for portal in appliance.portals]
    for session in sessions:
        Device(session, lun)
    data = [bytes([number]) * 4096 for number in range(64)]
    writes = [(n, sessions[n % 2].submit(lun, write_10(n * 8, 8), block)) for n, block in enumerate(data)]
    assert [sessions[n % 2].wait(command).status for n, command in writes] == [0] * 64
    reads = [(n, sessions[n % 2].submit(lun, read_10(n * 8, 8), data_in_length=4096)) for n in range(64)]
    assert [bytes(sessions[n % 2].wait(command).data) for n, command in reads] == data
    for session in sessions:
        session.logout()
