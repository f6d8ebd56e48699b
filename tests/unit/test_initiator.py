"""The initiator against an independent target (Debian's tgt), and against peers that misbehave."""

import ctypes
import ctypes.util
import gc
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from datamover import libiscsi
from datamover.initiator import InitiatorError, InitiatorSession, TaskManagementOutcome, discover
from tests.support import packages
from tests.support.ports import free_port
from tests.support.tgt import TgtTarget
from tests.support.waiting import in_time

INQUIRY = bytes([0x12, 0, 0, 0, 96, 0])
TEST_UNIT_READY = bytes(6)
REWIND = bytes([1, 0, 0, 0, 0, 0])


def write_6(length: int) -> bytes:
    return bytes([0x0A, 0]) + length.to_bytes(3, "big") + b"\0"


def read_6(length: int) -> bytes:
    return bytes([0x08, 0]) + length.to_bytes(3, "big") + b"\0"


def disk_cdb(operation_code: int, block: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", operation_code, 0, block, 0, count, 0)


@pytest.fixture(scope="module")
def target() -> Iterator[TgtTarget]:
    packages.require("tgt", "libiscsi7")
    with TgtTarget() as running:
        yield running


@pytest.fixture
def session(target: TgtTarget) -> Iterator[InitiatorSession]:
    with InitiatorSession(target.portal, target.target_name, timeout_seconds=60) as logged_in:
        for lun in (target.tape_lun, target.disk_lun):
            logged_in.command(lun, TEST_UNIT_READY)  # the power-on unit attention
        yield logged_in


def test_discover_names_the_target_and_its_address(target: TgtTarget) -> None:
    (found,) = discover(target.portal)
    assert found.name == target.target_name
    assert found.addresses == (f"{target.portal},1",)


@pytest.mark.parametrize("header_digest", [False, True])
@pytest.mark.parametrize("immediate_data", [False, True])
@pytest.mark.parametrize("initial_r2t", [False, True])
def test_disk_round_trip(target: TgtTarget, header_digest: bool, immediate_data: bool, initial_r2t: bool) -> None:
    data = bytes(i * 7 & 0xFF for i in range(512 * 1024))
    with InitiatorSession(
        target.portal,
        target.target_name,
        header_digest=header_digest,
        immediate_data=immediate_data,
        initial_r2t=initial_r2t,
    ) as session:
        session.command(target.disk_lun, TEST_UNIT_READY)
        assert session.command(target.disk_lun, disk_cdb(0x2A, 16, 1024), data).status == 0
        result = session.command(target.disk_lun, disk_cdb(0x28, 16, 1024), data_in_length=len(data))
        assert (result.status, result.sense, result.residual) == (0, b"", 0)
        assert bytes(result.data) == data


def test_reads_into_the_callers_buffer(target: TgtTarget, session: InitiatorSession) -> None:
    buffer = bytearray(b"\xff" * 4096)
    result = session.command(target.disk_lun, disk_cdb(0x28, 0, 4), data_in=memoryview(buffer)[1024:3072])
    assert result.data.obj is buffer
    assert len(result.data) == 2048
    assert buffer[:1024] == b"\xff" * 1024 == buffer[3072:]


def test_writes_from_any_buffer_without_a_copy(target: TgtTarget, session: InitiatorSession) -> None:
    for data in (b"a" * 512, bytearray(b"b" * 512), memoryview(b"." + b"c" * 512)[1:]):
        assert session.command(target.disk_lun, disk_cdb(0x2A, 0, 1), data).status == 0
        assert session.command(target.disk_lun, disk_cdb(0x28, 0, 1), data_in_length=512).data == data


def test_a_short_block_leaves_a_residual_and_sense(target: TgtTarget, session: InitiatorSession) -> None:
    lun = target.tape_lun
    assert session.command(lun, REWIND).status == 0
    assert session.command(lun, write_6(4000), b"x" * 4000).status == 0
    assert session.command(lun, REWIND).status == 0
    # Half and half: tgt mixes up what it sent and what it did not.
    result = session.command(lun, read_6(8000), data_in_length=8000)
    assert result.status == 0x02
    assert result.sense[2] & 0x20  # ILI
    assert int.from_bytes(result.sense[3:7], "big", signed=True) == 4000
    assert result.residual == 4000
    assert bytes(result.data) == b"x" * 4000


def test_submitted_commands_keep_their_order(target: TgtTarget, session: InitiatorSession) -> None:
    writes = [session.submit(target.disk_lun, disk_cdb(0x2A, 7, 1), bytes([i]) * 512) for i in range(64)]
    assert [session.wait(write).status for write in writes] == [0] * 64
    assert bytes(session.command(target.disk_lun, disk_cdb(0x28, 7, 1), data_in_length=512).data) == b"\x3f" * 512


def test_task_management(target: TgtTarget, session: InitiatorSession) -> None:
    done = session.submit(target.disk_lun, TEST_UNIT_READY)
    session.wait(done)
    assert session.abort_task(done) is TaskManagementOutcome.TASK_DOES_NOT_EXIST
    assert session.logical_unit_reset(target.disk_lun) is TaskManagementOutcome.FUNCTION_COMPLETE
    assert session.command(target.disk_lun, TEST_UNIT_READY).sense[2] == 0x06  # unit attention
    # tgt has no target reset, and says so.
    assert session.target_reset() is TaskManagementOutcome.TASK_MANAGEMENT_FUNCTION_NOT_SUPPORTED


def test_two_sessions_of_one_process_do_not_reinstate_each_other(target: TgtTarget) -> None:
    sessions = [InitiatorSession(target.portal, target.target_name) for _ in range(4)]
    for session in sessions:
        session.ping()
        session.logout()
        assert session.closed


def test_unknown_target_is_said(target: TgtTarget) -> None:
    with pytest.raises(InitiatorError, match=r"login: iqn.2012-08.org.example:nobody at 127"):
        InitiatorSession(target.portal, "iqn.2012-08.org.example:nobody", timeout_seconds=60)


def test_wrong_arguments_are_refused_before_anything_is_sent(session: InitiatorSession) -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        session.submit(2, INQUIRY, b"out", 10)
    with pytest.raises(ValueError, match="CDB of 17 bytes"):
        session.submit(2, bytes(17))
    with pytest.raises(BufferError):
        session.submit(2, INQUIRY, data_in=bytes(10))
    session.ping()


def test_closed_session_says_so(target: TgtTarget) -> None:
    session = InitiatorSession(target.portal, target.target_name)
    session.close()
    with pytest.raises(InitiatorError, match=r"command: the session with .* is closed"):
        session.command(0, INQUIRY)


def test_a_dropped_session_gives_its_buffers_back(target: TgtTarget) -> None:
    class Buffer(bytearray):
        pass

    buffer = Buffer(4096)
    seen = weakref.ref(buffer)
    session = InitiatorSession(target.portal, target.target_name)
    session.submit(target.disk_lun, disk_cdb(0x28, 0, 8), data_in=buffer)
    session.close()
    del buffer, session
    gc.collect()
    assert seen() is None


def test_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libiscsi, "_LIBRARY_NAMES", ("libiscsi-of-nowhere.so.0",))
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: None)
    libiscsi.load.cache_clear()
    with pytest.raises(InitiatorError, match="apt-get install libiscsi7"):
        InitiatorSession("127.0.0.1:1", "iqn.2012-08.org.example:any")


class ShiftedLibrary:
    """libiscsi as it would look if a member had been added in front of the residual."""

    class Task(ctypes.Structure):
        _fields_ = [*libiscsi.ScsiTask._fields_[:5], ("added", ctypes.c_uint64), *libiscsi.ScsiTask._fields_[5:]]

    _name = "libiscsi.so.99"

    def scsi_create_task(self, *arguments: object) -> object:
        return ctypes.cast(libiscsi.load().scsi_create_task(*arguments), ctypes.POINTER(self.Task))

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda task, *more: getattr(libiscsi.load(), name)(
            ctypes.cast(task, ctypes.POINTER(libiscsi.ScsiTask)), *more
        )


def test_a_changed_task_structure_is_noticed() -> None:
    packages.require("libiscsi7")
    libiscsi.check_layout(libiscsi.load())
    with pytest.raises(libiscsi.LibraryUnavailable, match=r"libiscsi.so.99: its struct scsi_task"):
        libiscsi.check_layout(ShiftedLibrary())  # type: ignore[arg-type]


@contextmanager
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening


def portal_of(listening: socket.socket) -> str:
    return f"127.0.0.1:{listening.getsockname()[1]}"


def test_nobody_listens() -> None:
    packages.require("libiscsi7")
    portal = f"127.0.0.1:{free_port()}"
    with pytest.raises(InitiatorError, match=f"connect: iqn.x at {portal}"):
        InitiatorSession(portal, "iqn.x", timeout_seconds=60)


def test_a_peer_that_never_answers_the_login() -> None:
    packages.require("libiscsi7")

    def connects(seconds: float) -> None:
        with pytest.raises(InitiatorError, match=rf"login: no answer from .* within {seconds} s"):
            InitiatorSession(portal_of(listening), "iqn.x", timeout_seconds=seconds)

    with listener() as listening:
        in_time(connects, AssertionError, (0.2, 5.5, 30.5))


def test_a_peer_that_hangs_up_during_the_login() -> None:
    packages.require("libiscsi7")

    def hang_up(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.recv(48)
        connection.close()

    with listener() as listening:
        thread = threading.Thread(target=hang_up, args=(listening,))
        thread.start()
        with pytest.raises(InitiatorError, match=r"login: iqn.x at"):
            InitiatorSession(portal_of(listening), "iqn.x", timeout_seconds=60)
        thread.join()


def test_losing_the_connection_ends_the_command() -> None:
    packages.require("tgt", "libiscsi7")
    with TgtTarget() as target:
        session = InitiatorSession(target.portal, target.target_name, timeout_seconds=60)
        session.ping()
    with pytest.raises(InitiatorError, match=r"lost|socket|connection"):
        session.command(target.disk_lun, TEST_UNIT_READY)
    assert session.closed
