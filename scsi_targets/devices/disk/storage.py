"""What every command of a disk stands on: the image, its blocks, when they may be touched, what their errors mean."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar

from datamover.engine import LIMIT_TRANSFER_BYTES
from scsi_targets.devices.disk.part import DiskPart
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.dispatch import Row
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.readers_writer_lock import ReadersWriterLock
from scsi_targets.devices.unit.state_store import StateStore
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.t10 import sbc, sense, spc, vpd
from scsi_targets.t10.fields import Command, Field
from scsi_targets.t10.mode_pages import ModePage
from scsi_targets.t10.sense import CheckCondition, Sense
from vlib_images.disk.image import Image
from vlib_images.disk.snapshot_set import break_snapshots_of

BLOCK_LENGTHS = (512, 4096)
SYNCHRONIZING = (
    sbc.SynchronizeCache10, sbc.SynchronizeCache16, sbc.StartStopUnit, spc.ModeSelect6, spc.ModeSelect10,
)  # fmt: skip
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class BlockStorage(Device):
    """A disk's medium, without commands.

    image: the medium that is in the device, loaded; None: a removable disk without one, or `unavailable`. The device
    closes it. unavailable: why a disk has no image although it should, in an operator's words; then everything that
    needs the medium is answered NOT READY, MANUAL INTERVENTION REQUIRED.
    block_length: 512 or 4096 bytes; physical_block_length: what READ CAPACITY(16) says of the physical blocks, a power
    of two times the block length. read_only: write protected even if the image could be written. read_zeros: what LBPRZ
    promises of unmapped blocks; without that promise WRITE SAME with UNMAP unmaps whatever its Data-Out. store and
    state_key as for every logical unit. Raises ValueError for lengths that do not fit together.
    """

    device_type: ClassVar[int] = vpd.DIRECT_ACCESS
    version_descriptors = (vpd.SAM_5, vpd.SPC_4, vpd.SBC_3, vpd.ISCSI)

    def __init__(
        self,
        identity: Identity,
        image: Image | None,
        *,
        block_length: int = 512,
        physical_block_length: int | None = None,
        removable: bool = False,
        read_only: bool = False,
        read_zeros: bool = True,
        unavailable: str | None = None,
        store: StateStore | None = None,
        state_key: str = "",
    ) -> None:
        physical = physical_block_length or block_length
        if block_length not in BLOCK_LENGTHS or physical % block_length or (physical // block_length).bit_count() != 1:
            raise ValueError(f"no disk has logical blocks of {block_length} bytes and physical ones of {physical}")
        if image is None and not removable and unavailable is None:
            raise ValueError("a disk that is not removable needs its image")
        if image is not None and image.size_bytes < block_length:
            raise ValueError(f"{image.name} is shorter than one block of {block_length} bytes")
        super().__init__(identity, store=store, state_key=state_key)
        self.image = image
        self.unavailable = unavailable
        self.block_length = block_length
        self.physical_block_length = physical
        self.removable = removable
        self.read_only = read_only
        self.read_zeros = read_zeros
        self.loaded = image is not None
        self.accessible = self.loaded  # whether commands and copies may touch the medium now
        self.capacity = 0  # number of logical blocks of the medium while it is accessible
        self.gate = ReadersWriterLock()
        self.software_write_protect = False  # SWP of the Control mode page
        self.writeback_cache = True  # WCE of the Caching mode page
        self._disk_parts: list[DiskPart] = []

    def attach(self, *parts: Part) -> None:
        self._disk_parts = [part for part in parts if isinstance(part, DiskPart)]
        super().attach(*parts)
        self.update_access()

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {}  # DiskModes has them all, its own Control mode page too

    # ---- the medium ------------------------------------------------------------------------------------------------

    @property
    def medium(self) -> Image:
        """The loaded image; raises CheckCondition while it must not be touched."""
        if self.image is None or not self.accessible:
            raise self.not_ready() or CheckCondition(sense.MEDIUM_NOT_PRESENT)
        return self.image

    def not_ready(self) -> CheckCondition | None:
        """Why the medium cannot be accessed now; None when it can."""
        for part in self._disk_parts:
            if (refusal := part.not_ready()) is not None:
                return refusal
        if self.loaded:
            return None
        return CheckCondition(sense.MANUAL_INTERVENTION_REQUIRED if self.unavailable else sense.MEDIUM_NOT_PRESENT)

    def update_access(self) -> None:
        """Called when something has changed that decides whether the medium may be read, written, or how much of it
        there is."""
        self.accessible = self.loaded and not any(part.bars_medium() for part in self._disk_parts)
        self.medium_usable = self.accessible and not any(part.rests() for part in self._disk_parts)
        self.writable = not self.write_protected
        image = self.image if self.accessible else None
        self.capacity = image.size_bytes // self.block_length if image is not None else 0

    def check_medium(self, row: Row) -> None:
        for part in self._disk_parts:
            if self.loaded and part.tolerates(row):
                return
        self.check_ready()
        for part in self._disk_parts:
            part.on_medium_needed()
        self.update_access()

    def check_ready(self) -> None:
        if (refusal := self.not_ready()) is not None:
            raise refusal

    def current_sense(self) -> Sense:
        if (refusal := self.not_ready()) is not None:
            return refusal.sense
        resting = (part.resting_sense() for part in self._disk_parts)
        return Sense(next((code for code in resting if code is not None), sense.NOTHING))

    @property
    def thin(self) -> bool:
        """Whether the disk gives back space (logical block provisioning management, LBPME)."""
        return self.image is not None and self.image.can_deallocate

    def offer_commands(self) -> None:
        """Withdraws the commands that the image in the device cannot carry out."""
        withdrawn: list[type[Command]] = []
        if self.image is not None and not self.image.read_only:
            if not self.thin:
                withdrawn.append(sbc.Unmap)
            if not self.image.max_atomic_bytes:
                withdrawn.append(sbc.WriteAtomic16)
        self.withdraw(*withdrawn)

    @property
    def write_protected(self) -> bool:
        """WP of the mode parameter header: by the image, the configuration or SWP."""
        return self._protected or self.software_write_protect

    @property
    def _protected(self) -> bool:
        return self.read_only or (self.image is not None and self.image.read_only)

    def check_writable(self, row: Row) -> None:
        if self._protected:
            raise CheckCondition(sense.WRITE_PROTECTED)
        if self.software_write_protect:
            raise CheckCondition(sense.SOFTWARE_WRITE_PROTECTED)

    def on_reset(self) -> None:
        super().on_reset()
        with self.gate.alone:
            pass  # what other connections' threads had begun is over when the reset is answered

    def self_test(self) -> None:
        super().self_test()
        if self.image is not None:
            try:
                self.image.synchronize()
            except OSError as error:
                raise CheckCondition(sense.LOGICAL_UNIT_FAILED_SELF_TEST) from error

    def close(self) -> None:
        """Ends the worker, makes what was written durable and closes the image."""
        super().close()
        with self.gate.alone:
            image, self.image, self.loaded = self.image, None, False
            self.update_access()
        if image is not None:
            break_snapshots_of(image, "its disk is closed")
            if not image.read_only:
                image.synchronize()
            image.close()

    # ---- media that come, go and grow ------------------------------------------------------------------------------

    def load(self, image: Image) -> None:
        """Makes an image the medium, ready for commands."""
        self.image, self.loaded, self.unavailable = image, True, None
        self.update_access()
        self.offer_commands()

    def eject(self) -> None:
        """Makes what was written durable and the medium unreachable; it stays in the device."""
        with self.gate.alone:
            self.flush()
            self.loaded = False
            self.update_access()

    def flush(self) -> None:
        """Makes what was written to a loaded medium durable."""
        if self.loaded and self.image is not None:
            self.image.synchronize()

    def resized(self) -> None:
        """The medium has another size: every initiator is told CAPACITY DATA HAS CHANGED."""
        self.update_access()
        self.establish_unit_attention(sense.CAPACITY_DATA_HAS_CHANGED, self.nexuses)

    def tell_of_new_medium(self, but: Nexus | None = None) -> None:
        """Every initiator but one learns that there may be another medium."""
        self.tell_others(but, sense.MEDIUM_MAY_HAVE_CHANGED)

    # ---- what the handlers share -----------------------------------------------------------------------------------

    def span(self, cdb: Command, address: int, count: int) -> tuple[int, int]:
        """(offset, length) in bytes of `count` blocks from `address`; raises CheckCondition when they are not all on
        the medium. A range of no blocks must begin on it too (SBC-4 5.17)."""
        if address >= self.capacity or count > self.capacity - address:
            self.check_ready()
            raise CheckCondition(sense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, _field(cdb, "logical_block_address"))
        return address * self.block_length, count * self.block_length

    def transfer_span(self, cdb: Command, address: int, count: int) -> tuple[int, int]:
        """As span(), for a command that moves those blocks: MAXIMUM TRANSFER LENGTH holds (SBC-4 6.6.4)."""
        offset, length = self.span(cdb, address, count)
        if length > LIMIT_TRANSFER_BYTES:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, _field(cdb, "transfer_length", "verification_length"))
        return offset, length

    @staticmethod
    def refuse_protection_information(cdb: Any) -> None:
        """The disk is formatted without protection information (P_TYPE 0), so RDPROTECT and its kin must be zero."""
        if cdb.protect:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).protect)

    def whole_blocks(self, task: Task, length: int) -> memoryview:
        """The Data-Out of a command that takes `length` bytes. An initiator may send less (RFC 7143 11.4.5.1: the rest
        is the residual overflow), but no part of a block: that raises CheckCondition."""
        data = task.data()[:length]
        if len(data) % self.block_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT, transferred=length)
        return data

    def exact_data(self, task: Task, length: int) -> memoryview:
        """The Data-Out of a command that makes sense only with all of it: neither less nor more than `length` bytes."""
        data = task.data()
        if len(data) != length:
            raise CheckCondition(sense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT, transferred=length)
        return data

    def storage_failure(self, row: Row, error: Exception) -> CheckCondition | None:
        if not isinstance(error, OSError):
            return None
        if error.errno in NO_SPACE:
            return CheckCondition(sense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)  # SBC-4 4.7.3.6
        writes = row.writes or row.command in SYNCHRONIZING
        return CheckCondition(sense.WRITE_ERROR if writes else sense.UNRECOVERED_READ_ERROR)


def _field(cdb: Command, *names: str) -> Field | None:
    return next((field for name in names if (field := type(cdb).fields.get(name))), None)
