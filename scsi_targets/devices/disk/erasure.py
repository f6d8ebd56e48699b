"""Erasing a whole disk in the background: what FORMAT UNIT and SANITIZE start.

An erasure outlives its command, the session and the process: what it is goes to the store before it begins and leaves
it when it has ended, so that a new start goes on with it (SBC-4 4.11.3: a sanitize operation survives power loss).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from scsi_targets.devices.unit.task_set import started
from vlib_images.disk.image import Image, Provisioning, fill_steps


class ErasureKind(Enum):
    """What is done to every logical block."""

    OVERWRITE = "overwrite"  # a pattern is written, as often as asked
    BLOCK_ERASE = "block erase"  # what holds data is overwritten with zeros, then all space is given back
    CRYPTOGRAPHIC_ERASE = "cryptographic erase"  # the same: an image holds no ciphertext whose key could be destroyed
    FORMAT = "format"  # the pattern is written, or without one all space is given back


@dataclass(frozen=True, slots=True)
class ErasurePlan:
    """An erasure as the store keeps it. pattern: one logical block, or b"". invert: between the passes."""

    kind: ErasureKind
    pattern: bytes = b""
    passes: int = 1
    invert: bool = False
    unrestricted_exit: bool = False  # AUSE: EXIT FAILURE MODE may end a failure
    failed: bool = False

    def to_state(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value, "pattern": self.pattern.hex()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ErasurePlan:
        """KeyError, TypeError or ValueError: malformed."""
        return cls(**state | {"kind": ErasureKind(state["kind"]), "pattern": bytes.fromhex(state["pattern"])})


class Erasure:
    """One erasure that runs on a thread. `ended` is called on that thread with None, or with what went wrong."""

    def __init__(
        self,
        plan: ErasurePlan,
        image: Image,
        *,
        bytes_per_second: int | None,
        ended: Callable[[Exception | None], None],
    ) -> None:
        self.plan = plan
        self.finished = threading.Event()
        self._image = image
        self._bytes_per_second = bytes_per_second
        self._ended = ended
        self._done_bytes = 0
        self._total_bytes = image.size_bytes * plan.passes
        self._begun, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{plan.kind.value} {image.name}", daemon=True)

    def start(self) -> bool:
        """Takes a thread, which waits for begin(). False when the system has none to give."""
        return started(self._thread)

    def begin(self) -> None:
        """The medium is its own now."""
        self._begun.set()

    def stop(self) -> None:
        """Ends it soon without its end being told: it goes on at the next start of the appliance."""
        self._stop.set()
        self._begun.set()
        self._thread.join()
        self.finished.set()

    @property
    def progress(self) -> int:
        """PROGRESS INDICATION: 65536ths done."""
        return min(0xFFFF, self._done_bytes * 0x10000 // self._total_bytes)

    # ---- the work --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._begun.wait()
        try:
            self._erase()
        except Exception as error:  # noqa: BLE001 - whatever it is, the erasure has failed and initiators must be told
            self._ended(error)
        else:
            if self._stop.is_set():
                return
            self._ended(None)
        self.finished.set()

    def _erase(self) -> None:
        if self.plan.pattern:
            for number in range(self.plan.passes):
                inverted = self.plan.invert and number % 2 == 1
                self._write(bytes(byte ^ 0xFF for byte in self.plan.pattern) if inverted else self.plan.pattern)
        elif not self._image.can_deallocate:
            self._write(bytes(512))
        else:
            if self.plan.kind is not ErasureKind.FORMAT:
                self._write_zeros_over_data()
            if not self._stop.is_set():
                self._image.deallocate(0, self._image.size_bytes)
        self._image.synchronize()

    def _write(self, block: bytes) -> None:
        whole = self._image.size_bytes // len(block) * len(block)
        for offset, length in self._paced(fill_steps(0, whole, len(block))):
            self._image.fill(block, offset, length)
        self._image.synchronize()  # each pass reaches the medium, not only the last (SBC-4 4.11.3)

    def _write_zeros_over_data(self) -> None:
        # Space that is only given back keeps its old content until the file system hands it to somebody else.
        for extent in list(self._image.extents(0, self._image.size_bytes)):
            if extent.state is Provisioning.DEALLOCATED:
                self._done_bytes += extent.length
                continue
            for offset, length in self._paced(fill_steps(extent.offset, extent.length, 1)):
                self._image.fill(bytes(1), offset, length)
        self._image.synchronize()

    def _paced(self, steps: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The steps, no faster than asked, until the erasure is stopped."""
        began, sent = time.monotonic(), 0
        for offset, length in steps:
            if self._stop.is_set():
                return
            yield offset, length
            self._done_bytes += length
            sent += length
            if self._bytes_per_second:
                self._stop.wait(max(0.0, began + sent / self._bytes_per_second - time.monotonic()))
