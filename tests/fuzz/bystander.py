"""Another initiator that goes on with its work while one misbehaves, and checks every byte of it."""

import random
import threading
import time
from types import TracebackType
from typing import Self

from datamover.initiator import InitiatorError, InitiatorSession
from tests.support.appliance import Appliance
from tests.support.scsi import Device, is_unit_attention, read_10, write_10

NAME = "iqn.2026-01.org.example:bystander"
LIMIT_SECONDS = 30.0  # an answer that takes longer is a session that noticed
_DISK_BLOCKS = 2048  # what it works on, at the beginning of the disk: others keep away
_RUN_BLOCKS = 64


class Bystander:
    """A thread that writes and reads back until it is stopped. `check()` says whether it was ever disturbed."""

    def __init__(self, appliance: Appliance, device: str = "disk") -> None:
        self.rounds = 0
        self.slowest_seconds = 0.0
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._advanced = threading.Condition()
        self._random = random.Random(1)
        self._session = InitiatorSession(
            appliance.portal, appliance.target_name, initiator_name=NAME, timeout_seconds=LIMIT_SECONDS
        )
        self._disk = Device(self._session, appliance.lun(device))
        self._thread = threading.Thread(target=self._run, name="bystander")
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                self._write_and_read()
                with self._advanced:
                    self.rounds += 1
                    self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
                    self._advanced.notify_all()
        except (InitiatorError, AssertionError) as error:
            self._failure = error
            with self._advanced:
                self._advanced.notify_all()

    def _write_and_read(self) -> None:
        start = self._random.randrange(_DISK_BLOCKS - _RUN_BLOCKS)
        data = self._random.randbytes(_RUN_BLOCKS * 512)
        self._good(write_10(start, _RUN_BLOCKS), data)
        assert self._good(read_10(start, _RUN_BLOCKS), length=len(data)) == data, "other bytes than were written"

    def _good(self, cdb: bytes, data: bytes | None = None, length: int = 0) -> bytes:
        result = self._disk.command(cdb, data, length)
        while is_unit_attention(result):  # a reset by the other initiator is told to this one, and is no disturbance
            result = self._disk.command(cdb, data, length)
        assert result.status == 0, f"CDB {cdb.hex(' ')}: status {result.status:02x}h, sense {result.sense.hex(' ')}"
        return bytes(result.data)

    def check(self) -> None:
        """Wait for a whole round from now on; raise AssertionError when the work was disturbed."""
        with self._advanced:
            wanted = self.rounds + 2
            self._advanced.wait_for(lambda: self._failure or self.rounds >= wanted, timeout=2 * LIMIT_SECONDS)
        if self._failure is not None:
            raise AssertionError(f"the other session was disturbed: {self._failure}") from self._failure
        assert self.rounds >= wanted, "the other session stands still"

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if not self._session.closed:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
