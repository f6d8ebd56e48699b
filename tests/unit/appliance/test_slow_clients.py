"""Slow, silent and dead clients of the API: a tape goes on beside them, and whoever has a token is answered."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from appliance.control.client import Client
from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import TARGET_NAME, Appliance
from tests.support.ports import free_port
from tests.support.processes import open_files
from tests.support.waiting import eventually
from tests.unit.appliance.test_requests import command

IDLE, DRIPPING, DEAF = 1000, 50, 50
BLOCK = bytes(64 << 10)
WRITE = bytes([0x0A, 0, *len(BLOCK).to_bytes(3, "big"), 0])  # WRITE(6)
BLOCKS = 200


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Clients:
    """All that a stranger and a careless holder of a token can do to the API's port."""

    def __init__(self, port: int, token: str, stack: ExitStack) -> None:
        self._port, self._stack = port, stack
        authorization = f"Host: h\r\nAuthorization: Bearer {token}\r\n"
        stream = f"GET /v1/events?after=0 HTTP/1.1\r\n{authorization}Accept: text/event-stream\r\n\r\n"
        self._drip = f"POST /v1/drive/list HTTP/1.1\r\n{authorization}X: {'x' * BLOCKS}".encode()
        for _ in range(DEAF):
            self._connected(receive_bytes=4096).sendall(stream.encode())
        self._dripping = [self._connected() for _ in range(DRIPPING)]
        for _ in range(IDLE):
            self._connected()

    def _connected(self, receive_bytes: int = 0) -> socket.socket:
        made = self._stack.enter_context(socket.socket())
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(60)
        made.connect(("127.0.0.1", self._port))
        return made

    def drip(self, number: int) -> None:
        """One more byte of each request that never ends."""
        for each in self._dripping:
            with suppress(OSError):  # it was sent away
                each.send(self._drip[number : number + 1])


def test_a_tape_goes_on_beside_them(tmp_path: Path, many_descriptors: None) -> None:
    packages.require("libiscsi7")
    port = free_port()
    with (
        ExitStack() as stack,
        Appliance.with_loaded_drive(tmp_path, more=f'[api]\nlisten = "127.0.0.1:{port}"\n') as appliance,
    ):
        token = appliance.call("token.create", name="t", scope="operate")["token"]
        client = Client.at(f"http://127.0.0.1:{port}", token)
        initiator = stack.enter_context(InitiatorSession(appliance.portal, TARGET_NAME, timeout_seconds=60))
        drive = appliance.lun("drive0")
        assert command(initiator, drive, WRITE, BLOCK).status == 0
        before = len(open_files(appliance.process_id))
        clients = Clients(port, token, stack)
        for number in range(BLOCKS):
            clients.drip(number)
            assert command(initiator, drive, WRITE, BLOCK).status == 0
            if number % 20 == 0:  # an event for each stream
                client.call("move", cartridge="TST003L6", to=f"slot:{10 + number // 20 % 2}")
        assert client.call("status")["sessions"]
        taken = len(open_files(appliance.process_id)) - before  # by the daemon itself; no connection of a client
        assert taken < min(IDLE, DRIPPING, DEAF) // 2
        assert [row["used_bytes"] >= BLOCKS * len(BLOCK) for row in client.call("cartridge.list")].count(True) == 1
        stack.pop_all().close()
        assert eventually(lambda: client.call("health"))
        assert not [entry for entry in appliance.problems() if "API" not in entry["event"]], appliance.log_text()
