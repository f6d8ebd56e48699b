"""What a copy manager remembers of its copies, for RECEIVE COPY RESULTS (SPC-5 6.23 to 6.25)."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from datamover.copy_progress import CopyProgress, Tally
from datamover.pace import Pace
from scsi_targets.devices.unit.task import Nexus, Response
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Field
from scsi_targets.t10.sense import CheckCondition

# Finished copies that one logical unit remembers for initiators, and as many for the operator; the oldest is forgotten
# for one more. With the longest lists an operator's take 6 MiB, for the checksums of 64 times 8192 segments.
MAXIMUM_RECORDS = 64
# How long an initiator should wait before it asks again.
STATUS_UPDATE_DELAY_MS = 1000
NO_MORE_UPDATES = 0xFFFFFFFE
IN_PROGRESS, COMPLETED, COMPLETED_WITH_ERRORS = 0x00, 0x01, 0x02
IN_PROGRESS_FOREGROUND = 0x11

_numbers = itertools.count(1)  # of the copies of all logical units, in the order of their arrival


class Checksums:
    """How many bytes each segment of a copy took, and their CRC32C, in twelve bytes a segment. Those of the segments
    that make a file combine to the file's (engine.crc32c_combine)."""

    def __init__(self, taken_bytes: Iterable[int], crc32c: Iterable[int]) -> None:
        self._taken_bytes = array("Q", taken_bytes)
        self._crc32c = array("I", crc32c)

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> Checksums:
        """Of a job that has ended."""
        return cls((tally.taken_bytes for tally in tallies), (tally.crc32c for tally in tallies))

    def __len__(self) -> int:
        return len(self._crc32c)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._taken_bytes, self._crc32c, strict=True)

    def __getitem__(self, segment: int) -> tuple[int, int]:
        return self._taken_bytes[segment], self._crc32c[segment]


@dataclass(eq=False)
class CopyRecord:
    """One copy. service_action: which EXTENDED COPY it is. status: of that command, None while it runs; `sense_data`
    came with it. has_turn: whether it has the drives and buffers that it waited for. failed_segment, reason: of a
    segment that failed. pace: how fast it may go. began, ended: seconds since 1970."""

    nexus: Nexus | None = None
    list_identifier: int | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    began: float = field(default_factory=time.time)
    ended: float | None = None
    has_turn: bool = False
    failed_segment: int | None = None
    reason: str = ""
    progress: CopyProgress = field(default_factory=CopyProgress)
    pace: Pace = field(default_factory=Pace)
    checksums: Checksums = field(default_factory=lambda: Checksums.of(()))
    cancelled: bool = False
    service_action: int = 0
    status: int | None = None
    sense_data: bytes = b""
    status_reported: bool = False
    details_reported: bool = False
    cancelling: Callable[[], None] | None = None

    @property
    def initiator(self) -> str:
        """Who sent it."""
        return self.nexus.initiator_name if self.nexus is not None else ""

    def cancel(self) -> None:
        """Has the copy stop."""
        self.cancelled = True
        if (cancelling := self.cancelling) is not None:  # it may end just now
            cancelling()

    def end(self, response: Response) -> Response:
        """The copy has ended with that response, which is returned."""
        self.sense_data, self.ended, self.cancelling = response.sense, time.time(), None
        self.status = response.status
        return response

    def copy_status(self) -> bytes:
        """RECEIVE COPY STATUS(LID1) parameter data."""
        units, count = _scaled(self.progress.bytes_written, 32)
        return copy.CopyStatus.encode(
            copy_command_status=self._code(IN_PROGRESS),
            segments_processed=self.progress.segments,
            transfer_count_units=units,
            transfer_count=count,
        )

    def copy_status_lid4(self) -> bytes:
        """RECEIVE COPY STATUS(LID4) parameter data."""
        padded = self.sense_data.ljust((len(self.sense_data) + 3) // 4 * 4, b"\0")
        units, count = _scaled(self.progress.bytes_written, 64)
        header = copy.CopyStatusLid4.encode(
            available_data=copy.CopyStatusLid4.length - 4 + len(padded),
            response_to_service_action=self.service_action,
            copy_operation_status=self._code(IN_PROGRESS_FOREGROUND),
            operation_counter=self.progress.operations & 0xFFFF,
            estimated_status_update_delay=STATUS_UPDATE_DELAY_MS if self.status is None else NO_MORE_UPDATES,
            completion_status=self.status or 0,
            sense_data_field_length=len(padded),
            sense_data_length=len(self.sense_data),
            transfer_count_units=units,
            transfer_count=count,
            segments_processed=self.progress.segments,
        )
        return header + padded

    def _code(self, in_progress: int) -> int:
        if self.status is None:
            return in_progress
        return COMPLETED_WITH_ERRORS if self.status else COMPLETED

    def failure_details(self) -> bytes:
        """RECEIVE COPY FAILURE DETAILS(LID1) parameter data; only a zero AVAILABLE DATA when nothing failed."""
        if not self.status:
            return bytes(4)
        header = copy.FailureDetails.encode(
            available_data=copy.FailureDetails.length - 4 + len(self.sense_data),
            extended_copy_command_status=self.status,
            sense_data_length=len(self.sense_data),
        )
        return header + self.sense_data


class CopyRecords:
    """By I_T nexus and list identifier for initiators, who are told once; all in order for the operator, for whom they
    stay when a nexus ends. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[Nexus, int], CopyRecord] = {}
        self._recent: list[CopyRecord] = []

    def begin(self, nexus: Nexus, list_identifier: int | None, service_action: int = 0) -> CopyRecord:
        """A new copy takes the place of a finished one with its identifier; CheckCondition when that one still runs.
        None: the initiator cannot ask for it."""
        with self._lock:
            record = CopyRecord(nexus, list_identifier, service_action=service_action)
            if list_identifier is not None:
                self._name(record, (nexus, list_identifier))
            finished = [other for other in self._recent if other.status is not None]
            if len(finished) >= MAXIMUM_RECORDS:
                self._recent.remove(finished[0])
            self._recent.append(record)
            return record

    def _name(self, record: CopyRecord, key: tuple[Nexus, int]) -> None:
        """Has initiators find it. Raises CheckCondition."""
        if key in self._records and self._records[key].status is None:
            raise CheckCondition(sense.OPERATION_IN_PROGRESS._replace(key=sense.ILLEGAL_REQUEST))  # SPC-5 5.17.4.2
        self._records.pop(key, None)
        finished = [other for other, known in self._records.items() if known.status is not None]
        if len(finished) >= MAXIMUM_RECORDS:
            del self._records[finished[0]]
        self._records[key] = record

    def remember(self, record: CopyRecord) -> None:
        """For the operator only."""
        with self._lock:
            self._recent.append(record)

    def recent(self) -> list[CopyRecord]:
        """Those that run and the last that have ended, in the order of their arrival."""
        with self._lock:
            return list(self._recent)

    def get(self, nexus: Nexus, list_identifier: int) -> CopyRecord | None:
        """The copy with that identifier."""
        with self._lock:
            return self._records.get((nexus, list_identifier))

    def find(self, nexus: Nexus, list_identifier: int, field_: Field) -> CopyRecord:
        """The copy with that identifier; CheckCondition (INVALID FIELD IN CDB) when there is none."""
        if (record := self.get(nexus, list_identifier)) is None:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field_)
        return record

    def forget(self, nexus: Nexus, list_identifier: int | None = None) -> None:
        """One copy of a nexus, or all of them."""
        with self._lock:
            for key in [k for k in self._records if k[0] == nexus and list_identifier in (None, k[1])]:
                del self._records[key]

    def drop(self, record: CopyRecord) -> None:
        """A copy that has not come to be."""
        with self._lock:
            for key in [k for k, known in self._records.items() if known is record]:
                del self._records[key]
            if record in self._recent:
                self._recent.remove(record)

    def clear(self) -> None:
        """A reset: initiators start anew."""
        with self._lock:
            self._records.clear()


def _scaled(count: int, bits: int) -> tuple[int, int]:
    """TRANSFER COUNT UNITS (00h bytes, 01h KiB, 02h MiB ...) and the count in them, the finest that fits."""
    units = 0
    while count >> bits:
        count >>= 10
        units += 1
    return units, count
