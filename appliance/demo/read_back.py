"""The demonstration's initiator: reads over iSCSI, as any host could, the tape that the backup has made.

Loads the cartridge with MOVE MEDIUM, reads its first file block by block, takes the archive apart with Python's
tarfile, hands the same bytes to GNU tar, which lists them, and puts the cartridge back.
"""

import hashlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.progress import Progress
from datamover.engine import crc32c
from datamover.initiator import InitiatorSession
from scsi_targets.client.changer import Changer
from scsi_targets.client.tape import Tape
from scsi_targets.client.unit import CommandFailed

BLOCK_BYTES = 256 << 10  # "tar -b 512"
COMMAND_SECONDS = 600.0
LISTED = 5  # lines of tar that the report shows


@dataclass(slots=True)
class ReadBack:
    """What was found on tape. checksums: the CRC32C of each file's content by name. sha256: of all names and contents.
    lines: the first that tar prints, and listed how many there were; empty where there is no tar."""

    checksums: dict[str, int] = field(default_factory=dict)
    content_bytes: int = 0
    archive_bytes: int = 0
    seconds: float = 0.0
    sha256: str = ""
    lines: list[str] = field(default_factory=list)
    listed: int = 0


@dataclass(frozen=True, slots=True)
class DemoSite:
    """Where things are: LUNs, and the element addresses of the cartridge's slot and of the drive, which is empty."""

    changer_lun: int
    drive_lun: int
    cartridge_address: int
    drive_address: int


class FirstFile(io.RawIOBase):
    """The blocks of a tape up to its first filemark, as a file; tar gets what is read."""

    def __init__(self, tape: Tape, lister: "subprocess.Popen[bytes] | None", progress: Callable[[int], None]) -> None:
        self._tape = tape
        self._lister = lister
        self._progress = progress
        self._block = bytearray(BLOCK_BYTES)
        self._rest = memoryview(b"")
        self._ended = False
        self.length = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest and not self._ended:
            self._rest = memoryview(self._next())
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def _next(self) -> bytes:
        try:
            length = self._tape.read_block(self._block)
        except CommandFailed as stopped:
            if stopped.sense is not None and stopped.sense.filemark:
                self._ended = True
                return b""
            raise
        data = bytes(self._block[:length])
        self.length += length
        self._progress(self.length)
        if self._lister is not None and self._lister.stdin is not None:
            self._lister.stdin.write(data)
        return data

    def finish(self) -> None:
        """Whatever is between the end of the archive and the filemark."""
        while not self._ended:
            self._next()


def run(session: InitiatorSession, site: DemoSite, total_bytes: int, progress: Progress) -> ReadBack:
    """Load the cartridge, read it, put it back. Raises CommandFailed and NoSuchAnswer of scsi_targets.client,
    InitiatorError, tarfile.TarError."""
    changer = Changer(session, site.changer_lun, timeout_seconds=COMMAND_SECONDS)
    tape = Tape(session, site.drive_lun, timeout_seconds=COMMAND_SECONDS)
    changer.move(site.cartridge_address, site.drive_address)
    tape.load()
    tape.use_variable_blocks()
    found = _read(tape, total_bytes, progress)
    tape.unload()
    changer.move(site.drive_address, site.cartridge_address)
    return found


def _read(tape: Tape, total_bytes: int, progress: Progress) -> ReadBack:
    found, digest, began = ReadBack(), hashlib.sha256(), time.monotonic()
    lister = _lister()
    first = FirstFile(tape, lister, lambda done: progress(done, total_bytes))
    try:
        with tarfile.open(fileobj=first, mode="r|", bufsize=BLOCK_BYTES) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                data = content.read() if content is not None else b""
                digest.update(member.name.encode(errors="surrogateescape") + b"\0" + data)
                found.content_bytes += len(data)
                if content is not None:
                    found.checksums[member.name] = crc32c(data)
        first.finish()
        found.seconds, found.archive_bytes = time.monotonic() - began, first.length
        found.sha256 = digest.hexdigest()
    finally:
        if lister is not None:
            lines = lister.communicate()[0].decode(errors="backslashreplace").splitlines()
            found.lines, found.listed = lines[:LISTED], len(lines)
    return found


def _lister() -> "subprocess.Popen[bytes] | None":
    program = shutil.which("tar")
    if program is None:
        return None
    return subprocess.Popen(
        [program, "-b", "512", "-tvf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
