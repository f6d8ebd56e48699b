"""Task management with tasks in flight, of the same session and of others (RFC 7143 11.5, 11.6)."""

import pytest
from scapy.packet import Raw

from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.pdu import TaskFunction, TaskResponse
from tests.fuzz import layers
from tests.fuzz.peer import INITIATOR_NAME, HungUp, Peer, text
from tests.unit.iscsi.conftest import Log
from tests.unit.iscsi.dummy import Served
from tests.unit.iscsi.support import TARGET
from tests.unit.iscsi.test_session import DAWDLE, STORE, TEST_UNIT_READY, good, ready, sense_of

REPORT_LUNS = b"\xa0" + bytes(8) + b"\x40" + bytes(2)
INQUIRY = b"\x12\0\0\0\x24\0"


def manage(peer: Peer, function: int, lun: int = 0, **fields: int) -> TaskResponse:
    tag = peer.tag()
    peer.send(layers.TaskManagementRequest(
        function=function, lun=lun << 48, initiator_task_tag=tag, cmd_sn=peer.cmd_sn, **fields
    ))  # fmt: skip
    answer = peer.receive()
    assert isinstance(answer, layers.TaskManagementResponse), answer
    assert answer.initiator_task_tag == tag
    return TaskResponse(answer.response)


def second_session(served: Served, initiator_name: str = "iqn.2026-01.org.example:second") -> Peer:
    peer = Peer(served.address)
    keys = {"InitiatorName": initiator_name, "TargetName": TARGET}
    peer.send(layers.LoginRequest(isid=b"\x80\x00\x00\x00\x00\x02", cmd_sn=1) / Raw(text(keys)))
    assert peer.receive().status_class == 0
    for lun in (0, 1):
        peer.send(peer.command(lun, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (6, 0x29, 0)
    return peer


def waiting_for_data(peer: Peer, lun: int = 0) -> layers.ScsiCommand:
    """A write whose R2T has come and whose data has not been sent."""
    command = peer.command(lun, STORE, write=1, expected_data_transfer_length=300_000)
    peer.send(command)
    assert isinstance(peer.receive(), layers.ReadyToTransfer)
    return command


def dawdling(served: Served, peer: Peer, lun: int = 0) -> layers.ScsiCommand:
    command = peer.command(lun, DAWDLE)
    peer.send(command)
    assert served.units[lun].started.wait(60)
    return command


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TaskFunction.ABORT_TASK_SET, TaskResponse.FUNCTION_COMPLETE),
        (TaskFunction.CLEAR_TASK_SET, TaskResponse.FUNCTION_COMPLETE),
        (TaskFunction.LOGICAL_UNIT_RESET, TaskResponse.FUNCTION_COMPLETE),
        (TaskFunction.TARGET_WARM_RESET, TaskResponse.FUNCTION_COMPLETE),
        (TaskFunction.CLEAR_ACA, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (TaskFunction.TASK_REASSIGN, TaskResponse.REASSIGNMENT_NOT_SUPPORTED),
        (TaskFunction.QUERY_TASK, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (TaskFunction.QUERY_TASK_SET, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (TaskFunction.I_T_NEXUS_RESET, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (TaskFunction.QUERY_ASYNCHRONOUS_EVENT, TaskResponse.FUNCTION_NOT_SUPPORTED),
        (13, TaskResponse.FUNCTION_REJECTED),
        (0, TaskResponse.FUNCTION_REJECTED),
    ],
)
def test_with_nothing_in_flight(served: Served, function: int, response: TaskResponse) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        assert manage(peer, function) is response
        assert peer.is_alive()


@pytest.mark.parametrize("function", [1, 2, 4, 5])
def test_luns_that_are_not_there(served: Served, function: int) -> None:
    with Peer(served.address) as peer:
        peer.login(TARGET)
        assert manage(peer, function, lun=9) is TaskResponse.LUN_DOES_NOT_EXIST


def test_abort_of_a_running_task(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        command = dawdling(served, peer)
        tag = command.initiator_task_tag
        assert manage(peer, 1, 1, referenced_task_tag=tag) is TaskResponse.TASK_DOES_NOT_EXIST  # another LUN
        assert manage(peer, 1, 0, referenced_task_tag=tag) is TaskResponse.FUNCTION_COMPLETE
        assert manage(peer, 1, 0, referenced_task_tag=tag) is TaskResponse.TASK_DOES_NOT_EXIST
        served.units[0].go.set()
        peer.send(peer.command(0, TEST_UNIT_READY))
        assert good(peer.receive()).initiator_task_tag != tag  # the aborted task is not answered


def test_abort_of_a_command_whose_data_has_not_come(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        command = waiting_for_data(peer)
        tag = command.initiator_task_tag
        assert manage(peer, 1, 0, referenced_task_tag=tag) is TaskResponse.FUNCTION_COMPLETE
        peer.send(peer.command(0, TEST_UNIT_READY))
        good(peer.receive())
        assert served.units[0].kept == b""


def test_abort_of_a_command_that_never_came(served: Served) -> None:
    with Peer(served.address) as peer:
        ready(peer)
        lost = peer.take_cmd_sn()
        assert manage(peer, 1, referenced_task_tag=77, ref_cmd_sn=lost) is TaskResponse.FUNCTION_COMPLETE
        peer.send(peer.command(0, TEST_UNIT_READY))
        good(peer.receive())
        assert manage(peer, 1, referenced_task_tag=77, ref_cmd_sn=lost) is TaskResponse.TASK_DOES_NOT_EXIST


def test_abort_task_set_spares_the_other_session_and_the_other_unit(served: Served) -> None:
    with Peer(served.address) as peer, second_session(served) as other:
        ready(peer)
        mine, elsewhere = waiting_for_data(peer, 0), waiting_for_data(peer, 1)
        theirs = waiting_for_data(other, 0)
        assert manage(peer, TaskFunction.ABORT_TASK_SET) is TaskResponse.FUNCTION_COMPLETE
        assert manage(peer, 1, 0, referenced_task_tag=mine.initiator_task_tag) is TaskResponse.TASK_DOES_NOT_EXIST
        assert manage(peer, 1, 1, referenced_task_tag=elsewhere.initiator_task_tag) is TaskResponse.FUNCTION_COMPLETE
        assert manage(other, 1, 0, referenced_task_tag=theirs.initiator_task_tag) is TaskResponse.FUNCTION_COMPLETE


@pytest.mark.parametrize("function", [TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET])
def test_clear_and_reset_reach_every_session_but_only_their_unit(served: Served, function: int) -> None:
    with Peer(served.address) as peer, second_session(served) as other:
        ready(peer)
        theirs, elsewhere = waiting_for_data(other, 0), waiting_for_data(other, 1)
        assert manage(peer, function) is TaskResponse.FUNCTION_COMPLETE
        assert manage(other, 1, 0, referenced_task_tag=theirs.initiator_task_tag) is TaskResponse.TASK_DOES_NOT_EXIST
        assert manage(other, 1, 1, referenced_task_tag=elsewhere.initiator_task_tag) is TaskResponse.FUNCTION_COMPLETE


def test_a_reset_is_told_to_every_session(served: Served) -> None:
    with Peer(served.address) as peer, second_session(served) as other:
        ready(peer)
        dawdling(served, other)
        assert manage(peer, TaskFunction.LOGICAL_UNIT_RESET) is TaskResponse.FUNCTION_COMPLETE
        for each in (peer, other):
            each.send(each.command(0, TEST_UNIT_READY))
            assert sense_of(each.receive()) == (6, 0x29, 0x03)


def test_nobody_disturbs_a_unit_that_is_lent_to_another(served: Served) -> None:
    with Peer(served.address) as peer, second_session(served) as other:
        ready(peer)
        lent, free = (waiting_for_data(other, lun) for lun in (0, 1))
        served.units[0].lend(Principal.key("0123456789abcdef"))
        for function in (TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET):
            assert manage(peer, function) is TaskResponse.AUTHORIZATION_FAILED
        assert manage(peer, TaskFunction.TARGET_WARM_RESET) is TaskResponse.FUNCTION_COMPLETE
        assert manage(other, 1, 0, referenced_task_tag=lent.initiator_task_tag) is TaskResponse.FUNCTION_COMPLETE
        assert manage(other, 1, 1, referenced_task_tag=free.initiator_task_tag) is TaskResponse.TASK_DOES_NOT_EXIST


def test_a_warm_reset_reaches_all_units_and_closes_nothing(served: Served) -> None:
    with Peer(served.address) as peer, second_session(served) as other:
        ready(peer)
        commands = [waiting_for_data(other, lun) for lun in (0, 1)]
        assert manage(peer, TaskFunction.TARGET_WARM_RESET) is TaskResponse.FUNCTION_COMPLETE
        for lun, command in enumerate(commands):
            tag = command.initiator_task_tag
            assert manage(other, 1, lun, referenced_task_tag=tag) is TaskResponse.TASK_DOES_NOT_EXIST
        assert peer.is_alive()


def test_a_cold_reset_closes_the_sessions_of_that_initiator_only(served: Served, log: Log) -> None:
    with (
        Peer(served.address) as peer,
        second_session(served, INITIATOR_NAME) as own,
        second_session(served) as stranger,
    ):
        ready(peer)
        assert manage(peer, TaskFunction.TARGET_COLD_RESET) is TaskResponse.FUNCTION_COMPLETE
        for each in (peer, own):
            with pytest.raises(HungUp):
                each.receive()
        assert stranger.is_alive()
        stranger.send(stranger.command(0, TEST_UNIT_READY))
        assert sense_of(stranger.receive()) == (6, 0x29, 0x03), "the units that it shares were reset all the same"
        reasons = {log.wait_for("session closed")["reason"] for _ in range(2)}
        assert reasons == {"target cold reset"}
    with Peer(served.address) as again:
        again.login(TARGET)
        assert again.is_alive()


# ---- views: one number, different units ----------------------------------------------------------------------------

SECOND = Principal.initiator("iqn.2026-01.org.example:second")


@pytest.fixture
def masked(served: Served) -> Served:
    """The second initiator sees the first one's LUN 1 as its LUN 0, and nothing else."""
    served.directory.masked[SECOND] = {0: served.units[1]}
    return served


def masked_session(served: Served) -> Peer:
    peer = Peer(served.address)
    keys = {"InitiatorName": SECOND.name, "TargetName": TARGET}
    peer.send(layers.LoginRequest(isid=b"\x80\x00\x00\x00\x00\x02", cmd_sn=1) / Raw(text(keys)))
    assert peer.receive().status_class == 0
    peer.send(peer.command(0, TEST_UNIT_READY))
    assert sense_of(peer.receive()) == (6, 0x29, 0)
    return peer


@pytest.mark.parametrize("function", [TaskFunction.CLEAR_TASK_SET, TaskFunction.LOGICAL_UNIT_RESET])
def test_clear_and_reset_mean_the_unit_and_not_its_number(masked: Served, function: int) -> None:
    with Peer(masked.address) as peer, masked_session(masked) as other:
        ready(peer)
        same_number, same_unit = waiting_for_data(peer, 0), waiting_for_data(peer, 1)
        assert manage(other, function, lun=0) is TaskResponse.FUNCTION_COMPLETE
        assert manage(peer, 1, 1, referenced_task_tag=same_unit.initiator_task_tag) is TaskResponse.TASK_DOES_NOT_EXIST
        assert manage(peer, 1, 0, referenced_task_tag=same_number.initiator_task_tag) is TaskResponse.FUNCTION_COMPLETE


@pytest.mark.parametrize("function", [TaskFunction.TARGET_WARM_RESET, TaskFunction.TARGET_COLD_RESET])
def test_a_target_reset_reaches_what_its_session_sees(masked: Served, function: int) -> None:
    with Peer(masked.address) as peer, masked_session(masked) as other:
        ready(peer)
        assert manage(other, function) is TaskResponse.FUNCTION_COMPLETE
        peer.send(peer.command(0, TEST_UNIT_READY))
        good(peer.receive())
        peer.send(peer.command(1, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (6, 0x29, 0x03)


def test_a_masked_view_is_all_there_is(masked: Served) -> None:
    with masked_session(masked) as peer:
        peer.send(peer.command(0, REPORT_LUNS, read=1, expected_data_transfer_length=64))
        assert good(peer.receive()).data == (8).to_bytes(4, "big") + bytes(12)
        peer.send(peer.command(1, TEST_UNIT_READY))
        assert sense_of(peer.receive()) == (5, 0x25, 0)
        peer.send(peer.command(1, INQUIRY, read=1, expected_data_transfer_length=36))
        assert good(peer.receive()).data[0] == 0x7F, "peripheral qualifier 3"
        assert manage(peer, TaskFunction.LOGICAL_UNIT_RESET, lun=1) is TaskResponse.LUN_DOES_NOT_EXIST
