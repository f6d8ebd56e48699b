"""A drive, disks made of file systems, archives written to a cartridge, and that cartridge read by other programs."""

import shutil
import subprocess
import tarfile
from collections import deque
from pathlib import Path

from appliance.backup.archive import TAPE_BLOCK, Archive, ArchiveWriter, Checkpoint, Listener, Member, VolumeFull
from appliance.backup.entries import Entry
from datamover.engine import crc32c
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.local_session import LocalSession
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.devices.unit.view import View
from tests.support import packages
from tests.unit.devices.support import TARGET
from tests.unit.devices.tape.support import make_cartridge
from vlib_images.cartridge.cartridge import ReadKind
from vlib_images.disk.raw import DiskImage

TAPE = 0
JOB = Nexus("iqn.2026-01.io.tapebay:backup", bytes(6), TARGET)


class Bench:
    """A drive with cartridges one after another, and disks of image files."""

    def __init__(
        self, directory: Path, *images: Path, block_length: int = 512, capacity_bytes: int = 200 << 20
    ) -> None:
        self.directory = directory
        self.capacity_bytes = capacity_bytes
        self.drive = TapeDrive(drive_model("IBM ULT3580-TD8"), "TB00000001")
        self.images = [DiskImage.open(image, read_only=True) for image in images]
        self.disks = [
            BlockDevice(Identity("TAPEBAY", "VIRTUAL DISK", "0100", f"D{n}"), image, block_length=block_length)
            for n, image in enumerate(self.images)
        ]
        self.cartridges = []
        self.change_cartridge()
        view = View(JOB.principal, TARGET, dict(enumerate([self.drive, *self.disks])))
        self.session = LocalSession(view, JOB)
        self.session.__enter__()
        self.tape = Tape(self.session, TAPE)
        self.tape.test_unit_ready()
        self.writer = ArchiveWriter(
            self.tape, CopyingUnit(self.session, TAPE), [Disk(self.session, 1 + n) for n in range(len(self.disks))],
            lambda: list(self.drive.copy_manager.record(JOB, 1).checksums),
        )  # fmt: skip

    def change_cartridge(self) -> None:
        """The next one, empty."""
        if self.drive.cartridge is not None:
            with self.drive.removing(lambda: None):
                pass
        name = f"TAP{len(self.cartridges):03}L8"
        self.cartridges.append(
            make_cartridge(
                self.directory, name, capacity_bytes=self.capacity_bytes, early_warning_bytes=self.capacity_bytes // 20
            )
        )
        self.drive.load(self.cartridges[-1])

    def close(self) -> None:
        self.drive.close()
        for closing in (*self.disks, *self.cartridges):
            closing.close()


class Told:
    """What a listener heard."""

    def __init__(self) -> None:
        self.whole: list[Member] = []
        self.checkpoints: list[Checkpoint] = []

    def listener(self) -> Listener:
        return Listener(self.whole.append, self.checkpoints.append, lambda written: None)


def write(bench: Bench, members: list[Member], told: Told | None = None, **options) -> Told:
    """All members, over as many cartridges as it takes."""
    told = told or Told()
    options = {"checkpoint_bytes": 1 << 30, **options}
    waiting, resumed = deque(members), options.pop("resumed", Checkpoint())
    while True:
        archive = Archive(bench.writer, told.listener(), "test", resumed=resumed, **options)
        archive.begin()
        try:
            added = []
            while waiting:
                added.append(waiting.popleft())
                archive.add(added[-1])
            archive.finish()
            return told
        except VolumeFull:
            rest = archive.close_early()
            waiting.extendleft(reversed(rest))
            bench.change_cartridge()
            bench.tape.test_unit_ready()
            first = waiting[0]
            resumed = Checkpoint(first.number, first.before, first.part, 0, first.crc32c, first.checked_bytes)


def members_of(*entries: Entry, disk: int = 0) -> list[Member]:
    return [Member(number, disk, entry) for number, entry in enumerate(entries)]


def archive_of(cartridge, into: Path) -> Path:
    """The first file of a cartridge, as a file; all of its blocks are of one length."""
    cartridge.rewind()
    buffer = bytearray(TAPE_BLOCK)
    with into.open("wb") as file:
        while (result := cartridge.read_block(buffer)).kind is not ReadKind.FILEMARK:
            assert result.length == TAPE_BLOCK
            file.write(buffer)
    return into


def listed_by_gnu(archive: Path) -> list[str]:
    return run("tar", "-b", "512", "-tf", archive).splitlines()


def extracted(archive: Path, directory: Path, *options: str) -> Path:
    """By GNU tar, with owners, attributes and ACLs."""
    directory.mkdir()
    run("tar", "-b", "512", "-xpf", archive, "-C", directory, "--xattrs", "--xattrs-include=*", "--acls", *options)
    return directory


def python_members(archive: Path) -> dict[str, bytes]:
    """The files of an archive and their contents, as Python's tarfile reads them from a stream."""
    found = {}
    with tarfile.open(archive, mode="r|", bufsize=TAPE_BLOCK) as tar:
        for member in tar:
            found[member.name] = tar.extractfile(member).read() if member.isfile() else b""
    return found


def run(*command) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode(errors="surrogateescape") + done.stderr.decode(errors="surrogateescape")


def checksum_of(data: bytes) -> int:
    return crc32c(data)


PACKAGES = {
    "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs", "mkfs.xfs": "xfsprogs", "xfs_db": "xfsprogs",
    "bsdtar": "libarchive-tools", "mkntfs": "ntfs-3g", "ntfscp": "ntfs-3g", "mkfs.fat": "dosfstools", "mcopy": "mtools",
    "mmd": "mtools",
}  # fmt: skip


def which(tool: str) -> str:
    """Where a tool is; a test that wants one which is not installed is skipped, and fails in CI."""
    packages.require(PACKAGES[tool])
    found = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert found is not None
    return found
