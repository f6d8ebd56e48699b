"""What units of other targets may answer: too little, too much, something else, nothing sensible."""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamover.initiator import CommandResult, InitiatorError
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer
from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.remote import RemoteUnit
from scsi_targets.devices.copying.remote_access import Description, RemoteAddress
from scsi_targets.t10 import copy_descriptors as copy
from tests.support import packages
from tests.unit.devices.copying.support import Site, block_to_stream, stream_to_block
from tests.unit.devices.copying.test_failures import DESTINATION, SOURCE, failure
from tests.unit.devices.support import sense_of
from tests.unit.devices.tape.support import good

NAME = bytes.fromhex("3999999999999999")
ADDRESS = RemoteAddress("192.0.2.1:3260", "iqn.2026-01.org.example:odd", 3, "iqn.2026-11.test:us")
INQUIRY, READ_6, WRITE_6, MODE_SENSE, CAPACITY, READ_16, WRITE_16 = 0x12, 0x08, 0x0A, 0x1A, 0x9E, 0x88, 0x8A
DEVICE_PAGE = bytes([0, 0x83, 0, 12, 1, 3, 0, 8]) + NAME
BLOCKS = 4096


class OddUnit:
    """A session with a unit that answers as it is told: by operation code, what becomes of its good answer."""

    def __init__(self, device_type: int) -> None:
        self.odd: dict[int, Callable[[CommandResult], CommandResult]] = {}
        self._device_type = device_type
        self.closed = False

    def command(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None,
        timeout_seconds: float | None = None,
    ) -> CommandResult:  # fmt: skip
        into = memoryview(data_in if data_in is not None else bytearray(data_in_length)).cast("B")
        answer = self._answer(cdb)
        count = min(len(into), len(answer)) if answer is not None else len(into)
        if answer is not None:
            into[:count] = answer[:count]
        result = CommandResult(0, b"", into[:count], 0)
        return self.odd.get(cdb[0], lambda result: result)(result)

    def _answer(self, cdb: bytes) -> bytes | None:
        """None: a transfer, that goes well."""
        if cdb[0] == INQUIRY:
            return DEVICE_PAGE if cdb[1] & 1 else bytes([self._device_type]) + bytes(35)
        if cdb[0] == CAPACITY:
            return (BLOCKS - 1).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes(20)
        return bytes(4) if cdb[0] == MODE_SENSE else None

    def submit(
        self, lun: int, cdb: bytes, data_out: Any = None, data_in_length: int = 0, *, data_in: Any = None
    ) -> Any:
        return self.command(lun, cdb, data_out, data_in_length, data_in=data_in)

    timeout_seconds = 60.0

    def ended(self, command: CommandResult, seconds: float) -> bool:
        return True

    def wait(self, command: CommandResult, timeout_seconds: float | None = None) -> CommandResult:
        return command

    def close(self) -> None:
        self.closed = True


def cut(length: int) -> Callable[[CommandResult], CommandResult]:
    return lambda result: dataclasses.replace(result, data=result.data[:length])


def says(data: bytes) -> Callable[[CommandResult], CommandResult]:
    return lambda result: dataclasses.replace(result, data=memoryview(data))


def off_by(residual: int) -> Callable[[CommandResult], CommandResult]:
    return lambda result: dataclasses.replace(result, residual=residual)


# ---- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "odd", "words"),
    [
        (INQUIRY, cut(0), "answered with 0 bytes"),
        (INQUIRY, says(b"\x7f" + bytes(35)), "there is no LUN 3"),
        (INQUIRY, says(b"\x05" + bytes(35)), "neither a disk nor a tape drive"),
        (INQUIRY, says(bytes(3)), "answered with 3 bytes, of at least 4"),
        (INQUIRY, says(bytes(40)), "VPD page 83h was asked for, and 00h came"),
        (INQUIRY, says(bytes([0, 0x83, 0, 0])), "no designator"),
        (CAPACITY, cut(0), "answered with 0 bytes"),
        (CAPACITY, cut(8), "answered with 8 bytes"),
        (CAPACITY, says(bytes(32)), "blocks of no bytes"),
        (CAPACITY, says(bytes(8) + b"\xff" * 24), "has blocks of 4294967295 bytes, more than 65536"),
    ],
)
def test_what_cannot_be_added(operation: int, odd: Callable[[CommandResult], CommandResult], words: str) -> None:
    session = OddUnit(0)
    session.odd[operation] = odd
    with pytest.raises((NoSuchAnswer, ValueError), match=words):
        Description.of(session, 3)  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from([INQUIRY, CAPACITY]), st.binary(max_size=64)), st.integers(0, 255))
def test_any_answer_is_described_or_refused(answers: dict[int, bytes], device_type: int) -> None:
    session = OddUnit(device_type)
    session.odd = {operation: says(data) for operation, data in answers.items()}
    try:
        found = Description.of(session, 3)  # type: ignore[arg-type]
    except (NoSuchAnswer, CommandFailed, ValueError):
        return
    assert found.device_type == 1 or 0 < found.block_length <= 65536


# ---- copies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def odd_unit(here: Site, monkeypatch: pytest.MonkeyPatch, device_type: int) -> OddUnit:
    """Has `here` reach one."""
    session = OddUnit(device_type)
    monkeypatch.setattr(RemoteAddress, "log_in", lambda address: session)
    description = Description(device_type, frozenset({Designator(1, 3, NAME)}), 512 * (device_type == 0))
    here.remote_units = [RemoteUnit(ADDRESS, description)]
    return session


def there(device_type: int) -> bytes:
    return copy.identification_descriptor(NAME, device_type=device_type)


@pytest.mark.parametrize(
    ("residual", "code"), [(512, (0xA, 0x0D, 0x04)), (1, (0xA, 0x0D, 0x04)), (-512, (0xA, 0x0D, 0x05))]
)
@pytest.mark.parametrize("operation", [READ_6, WRITE_6, READ_16, WRITE_16])
def test_what_moves_another_number_of_bytes_and_says_that_all_is_well(
    here: Site, monkeypatch: pytest.MonkeyPatch, operation: int, residual: int, code: tuple[int, int, int]
) -> None:
    disk = operation in (READ_16, WRITE_16)
    session = odd_unit(here, monkeypatch, 0 if disk else 1)
    session.odd[operation] = off_by(residual)
    cscds = [there(0), here.tape_descriptor()] if disk else [here.disk_descriptor(), there(1)]
    reads = operation in (READ_16, WRITE_6)  # the local disk or theirs is the source
    if operation == WRITE_16:
        here.fill([bytes(65536)])
    response = here.copy(
        block_to_stream(65536, 128) if reads else stream_to_block(65536, 128), cscds=cscds, unit=here.tape
    )
    assert sense_of(response) == code
    assert here.written() == ([bytes(65536)] if operation == WRITE_16 else [])
    assert session.closed


@pytest.mark.parametrize("operation", [INQUIRY, CAPACITY, MODE_SENSE])
def test_who_answers_with_less_than_an_answer_cannot_be_reached(
    here: Site, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    session = odd_unit(here, monkeypatch, 0)
    session.odd[operation] = cut(0)
    here.fill([bytes(65536)])
    response = here.copy(stream_to_block(65536, 128), cscds=[there(0), here.tape_descriptor()], unit=here.tape)
    assert sense_of(response) == (0xA, 0x0D, 0x02)


def test_who_says_how_large_it_is_once_only_cannot_be_reached(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    session = odd_unit(here, monkeypatch, 0)
    asked: list[CommandResult] = []

    def once(result: CommandResult) -> CommandResult:
        asked.append(result)
        return result if len(asked) == 1 else dataclasses.replace(result, data=result.data[:0])

    session.odd[CAPACITY] = once
    response = here.copy(block_to_stream(512, 1), cscds=[there(0), here.tape_descriptor()], unit=here.tape)
    assert sense_of(response) == (0xA, 0x0D, 0x02)


@pytest.mark.parametrize("raw", [b"", b"\x70", b"\xff" * 18, b"\x72\x03\x11", bytes(233)])
def test_sense_data_that_is_none_is_forwarded_as_it_came(
    here: Site, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    session = odd_unit(here, monkeypatch, 0)
    session.odd[READ_16] = lambda result: dataclasses.replace(result, status=2, sense=raw)
    response = here.copy(block_to_stream(65536, 128), cscds=[there(0), here.tape_descriptor()], unit=here.tape)
    assert failure(response, SOURCE)[3:] == (2, raw)
    assert here.written() == []


def test_nobody_elsewhere_takes_the_name_of_a_unit_here(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    session = odd_unit(here, monkeypatch, 0)
    taken = Description(0, frozenset({Designator(1, 3, here.disk.identity.naa)}), 512)
    here.remote_units = [RemoteUnit(ADDRESS, taken)]
    good(here.copy(block_to_stream(65536, 128), unit=here.tape))
    assert here.written() == [here.disk_data[:65536]]
    assert not session.closed


@pytest.mark.parametrize("operation", [READ_16, WRITE_16])
def test_nothing_is_copied_when_a_later_segment_ends_behind_the_end_of_their_disk(
    here: Site, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    session = odd_unit(here, monkeypatch, 0)
    moved: list[int] = []
    session.odd[operation] = lambda result: moved.append(operation) or result  # type: ignore[func-returns-value]
    here.fill([bytes(512)] * 4)
    make, side = (block_to_stream, SOURCE) if operation == READ_16 else (stream_to_block, DESTINATION)
    response = here.copy(
        make(512, 1), make(512, 1, BLOCKS - 1), make(512, 2, BLOCKS - 1), make(512, 0, BLOCKS + 1),
        cscds=[there(0), here.tape_descriptor()], unit=here.tape,
    )  # fmt: skip
    segment, information, _, status, inner = failure(response, side)
    assert (segment, information, status, inner[2] & 0x0F, inner[12:14]) == (2, None, 2, 5, b"\x21\0")
    assert moved == []


# ---- addresses -------------------------------------------------------------------------------------------------------

REDIRECTED = 0x0101


def test_a_target_that_sends_on_is_not_followed() -> None:
    """No address is connected to that no operator has added."""
    packages.require("libiscsi7")
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = f"127.0.0.1:{other.getsockname()[1]}"
        answering = threading.Thread(target=send_on, args=(listening, elsewhere))
        answering.start()
        address = dataclasses.replace(ADDRESS, portal=f"127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(InitiatorError, match=f"sends on to {elsewhere}, which is not followed"):
            address.log_in()
        answering.join(60)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


def send_on(listening: socket.socket, elsewhere: str) -> None:
    """Answers one Login Request by "target moved temporarily" (RFC 7143 11.13.5)."""
    connection, _ = listening.accept()
    with connection:
        request = connection.recv(48, socket.MSG_WAITALL)
        length = int.from_bytes(request[5:8], "big")
        connection.recv((length + 3) // 4 * 4, socket.MSG_WAITALL)
        text = f"TargetAddress={elsewhere},1\0".encode()
        header = bytearray(48)
        header[0], header[5:8], header[8:14] = 0x23, len(text).to_bytes(3, "big"), request[8:14]
        header[16:20], header[36:38] = request[16:20], REDIRECTED.to_bytes(2, "big")
        header[28:32] = header[32:36] = request[24:28]  # ExpCmdSN, MaxCmdSN
        connection.sendall(bytes(header) + text.ljust((len(text) + 3) // 4 * 4, b"\0"))
        connection.recv(1)
