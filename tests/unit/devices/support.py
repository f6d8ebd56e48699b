"""A logical unit without iSCSI: send a CDB, look at the response."""

from queue import SimpleQueue

from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.task import Nexus, Response, Task

TARGET = "iqn.2026-11.test:target"
ALPHA = Nexus("iqn.2026-11.test:alpha", bytes(6), TARGET)
BETA = Nexus("iqn.2026-11.test:beta", bytes(6), TARGET)


def send(
    unit: LogicalUnit,
    cdb: bytes,
    *,
    nexus: Nexus = ALPHA,
    data: bytes | None = None,
    limit: int = 1 << 20,
    **task: object,
) -> Response:
    """One command, to its end: a slow one is waited for."""
    padded = cdb.ljust(16, b"\0")
    answers: SimpleQueue[Response] = SimpleQueue()
    task = {"complete": answers.put} | task
    response = unit.execute(Task(nexus=nexus, lun=0, cdb=padded, data_out=data, data_in_limit=limit, **task))
    return response if response is not None else answers.get(timeout=60)


def sense_of(response: Response) -> tuple[int, int, int]:
    """(key, asc, ascq) of fixed-format sense data."""
    assert response.status == 0x02, response
    return response.sense[2] & 0x0F, response.sense[12], response.sense[13]


def data_of(response: Response) -> bytes:
    """The Data-In of a command that ended GOOD."""
    assert response.status == 0, (response.status, response.sense.hex())
    return b"" if response.data_in is None else bytes(memoryview(response.data_in)[: response.data_length])
