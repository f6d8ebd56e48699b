"""A disk and two tape drives in one target, and EXTENDED COPY to them."""

import threading
from pathlib import Path

from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.t10 import copy_descriptors as copy
from tests.unit.devices.disk.support import make_disk
from tests.unit.devices.support import ALPHA, BETA, TARGET, data_of, send
from tests.unit.devices.tape.support import make_cartridge

BLOCKS = 4096  # of 512 bytes


def content(length: int, seed: int = 1) -> bytes:
    """Bytes that differ everywhere."""
    return b"".join(((seed << 32) + n).to_bytes(8, "big") for n in range(length // 8 + 1))[:length]


class Site:
    """`disk` (LUN 0) with content on it, `tape` (LUN 1) and `other` (LUN 2), each with an empty cartridge."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = make_disk(directory, blocks=BLOCKS)
        self.tape, self.other = (TapeDrive(drive_model("IBM ULT3580-TD8"), f"TB0000000{n}") for n in (1, 2))
        self.cartridges = [
            make_cartridge(directory, f"TAP00{n}L8", capacity_bytes=40_000_000, early_warning_bytes=2_000_000)
            for n in (1, 2)
        ]
        for drive, cartridge in zip((self.tape, self.other), self.cartridges, strict=True):
            drive.load(cartridge)
        self.units = [self.disk, self.tape, self.other]
        self.remote_units = []
        self.permissions = {}
        self.copy_bytes_per_second = 0  # of the copies that begin; 0: as fast as they can
        self.hidden = []  # units that the sessions do not see
        for unit in self.units:
            unit.tasks.abort_patience_seconds = 0.05  # for those that a test makes stand still
        for nexus in (ALPHA, BETA):
            self.view.nexus_established(nexus)
            for unit in self.units:
                while unit.take_unit_attention(nexus):
                    pass
        self.disk_data = content(BLOCKS * 512)
        self.disk.medium.write(self.disk_data, 0)

    def add(self, unit) -> None:
        """One more logical unit."""
        self.units.append(unit)

    @property
    def view(self) -> View:
        """What the sessions see."""
        shown = {n: u for n, u in enumerate(self.units) if u not in self.hidden}
        return View(
            ALPHA.principal, TARGET, shown, permissions=self.permissions, remote_units=tuple(self.remote_units),
            copy_bytes_per_second=self.copy_bytes_per_second,
        )  # fmt: skip

    def close(self) -> None:
        for unit in self.units:
            unit.close()
        for cartridge in self.cartridges:
            cartridge.close()

    def disk_descriptor(self, **fields) -> bytes:
        return copy.identification_descriptor(
            self.disk.identity.naa, **{"device_type": 0, "block_length": 512} | fields
        )

    def tape_descriptor(self, drive: TapeDrive | None = None, **fields) -> bytes:
        naa = (drive or self.tape).identity.naa
        return copy.identification_descriptor(naa, **{"device_type": 1} | fields)

    @property
    def descriptors(self) -> list[bytes]:
        """0: the disk, 1: the tape."""
        return [self.disk_descriptor(), self.tape_descriptor()]

    def copy(
        self, *segments: bytes, cscds: list[bytes] | None = None, inline: bytes = b"", unit=None, **other
    ) -> Response:
        """EXTENDED COPY to the disk, or to `unit`."""
        nexus = other.pop("nexus", ALPHA)
        data = copy.parameter_list(cscds or self.descriptors, segments, inline, **other)
        return extended_copy(self, data, nexus, unit)

    def written(self, drive: TapeDrive | None = None) -> list[bytes | None]:
        """What is on a tape: blocks, None for a filemark."""
        return blocks_of((drive or self.tape).loaded)

    def fill(self, blocks: list[bytes | None], drive: TapeDrive | None = None) -> None:
        """Puts blocks and filemarks on a tape and rewinds it."""
        cartridge = (drive or self.tape).loaded
        for block in blocks:
            if block is None:
                cartridge.write_filemarks(1)
            else:
                cartridge.write_block(block)
        cartridge.rewind()


def extended_copy(site, data: bytes, nexus: Nexus = ALPHA, unit=None) -> Response:
    """EXTENDED COPY to `unit`, or to the disk of whatever has a disk and a view."""
    cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))
    return send(unit or site.disk, cdb, data=data, nexus=nexus, view=site.view)


def blocks_of(cartridge) -> list[bytes | None]:
    partition, position = cartridge.position
    cartridge.locate_block(partition, 0)
    found: list[bytes | None] = []
    into = bytearray(1 << 20)
    while not cartridge.at_eod:
        result = cartridge.read_block(into)
        found.append(None if result.kind.name == "FILEMARK" else bytes(into[: result.length]))
    cartridge.locate_block(partition, position)
    return found


def block_to_stream(length: int, number: int, address: int = 0, **fields) -> bytes:
    return copy.BlockToStream.encode(
        source=0, destination=1, stream_device_transfer_length=length, number_of_blocks=number,
        logical_block_address=address, **fields,
    )  # fmt: skip


def stream_to_block(length: int, number: int, address: int = 0, **fields) -> bytes:
    return copy.StreamToBlock.encode(
        **{"source": 1, "destination": 0} | fields,
        stream_device_transfer_length=length,
        number_of_blocks=number,
        logical_block_address=address,
    )


def receive(unit, command, *, nexus=ALPHA, **fields) -> Response:
    """One of the RECEIVE COPY commands."""
    return send(unit, command.encode(**{"allocation_length": 4096} | fields), nexus=nexus)


def copy_status(unit, list_identifier: int = 0, nexus=ALPHA) -> copy.CopyStatus:
    data = data_of(receive(unit, copy.ReceiveCopyStatusLid1, list_identifier=list_identifier, nexus=nexus))
    assert len(data) == 12
    return copy.CopyStatus.decode(data)


class Running:
    """A copy of the whole disk that stands still in its first write until `go` is set."""

    def __init__(self, site, unit, monkeypatch, segments=None):
        self.go, self.standing = threading.Event(), threading.Event()
        self.answers, self.done = [], threading.Event()
        write_blocks = site.tape.write_blocks

        def stand(*args, **more):
            self.standing.set()
            assert self.go.wait(60)
            return write_blocks(*args, **more)

        monkeypatch.setattr(site.tape, "write_blocks", stand)
        data = copy.parameter_list(site.descriptors, segments or [block_to_stream(4096, BLOCKS)], list_identifier=5)
        cdb = copy.ExtendedCopyLid1.encode(parameter_list_length=len(data))
        self.task = Task(ALPHA, 0, cdb, tag=77, data_out=data, complete=self.complete, view=site.view)
        assert unit.execute(self.task) is None
        assert self.standing.wait(60)

    def complete(self, response):
        self.answers.append(response)
        self.done.set()
