"""A logical unit with memory behind it, and a server of it: what the iSCSI layer needs to be tried for real."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import handles
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.server import Server
from scsi_targets.t10.fields import Bits, Command
from tests.unit.iscsi.support import PORTAL, TARGET, Directory


class Store(Command, opcode=0xC1, length=10):
    """Keep the Data-Out."""


class Fetch(Command, opcode=0xC2, length=10):
    """Give `length` bytes of what was kept."""

    length_bytes = Bits(2, 7, 32)


class Dawdle(Command, opcode=0xC0, length=10):
    """Takes as long as the test wants."""


class Memory(Device):
    """Remembers the last Data-Out. `started` and `go` pace the Dawdle command."""

    device_type = 3  # a processor: no driver of an initiator asks it for more

    def __init__(self, serial_number: str = "M1") -> None:
        super().__init__(Identity("TAPEBAY", "MEMORY", "0001", serial_number))
        self.kept = b""
        self.started, self.go = threading.Event(), threading.Event()
        self.attach()

    @handles(Store)
    def keep(self, cdb: Store, task: Task) -> Response:
        self.kept = bytes(task.data())
        return Response(data_length=len(self.kept))

    @handles(Fetch)
    def fetch(self, cdb: Fetch, task: Task) -> Response:
        data = (self.kept + bytes(cdb.length_bytes))[: cdb.length_bytes]
        return Response(data_in=data, data_length=len(data))

    @handles(Dawdle, slow=True)
    def dawdle(self, cdb: Dawdle, task: Task) -> Response:
        self.started.set()
        while not self.go.wait(0.005) and not task.aborted:
            pass
        return Response()


class Served:
    """A running server of one target with two logical units, 0 and 1."""

    def __init__(self, limits: Limits | None = None, portals: list[Portal] | None = None) -> None:
        self.units = [Memory("M0"), Memory("M1")]
        self.directory = Directory(targets={TARGET: dict(enumerate(self.units))}, portal_list=portals or [PORTAL])
        self.server = Server(self.directory, self.directory.portal_list, limits)
        self.addresses = self.server.start()
        self.address = self.addresses[0]

    def stop(self) -> None:
        for unit in self.units:
            unit.go.set()
        self.server.stop()
        for unit in self.units:
            unit.close()


@contextmanager
def serving(limits: Limits | None = None, portals: list[Portal] | None = None) -> Iterator[Served]:
    """A server for the length of a with statement."""
    served = Served(limits, portals)
    try:
        yield served
    finally:
        served.stop()
