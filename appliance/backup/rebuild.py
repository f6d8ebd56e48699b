"""A catalogue made anew from cartridges: from the index that a backup leaves after each archive."""

from __future__ import annotations

import itertools
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from appliance.backup import index
from appliance.backup.archive import TAPE_BLOCK, Checkpoint
from appliance.backup.catalogue import Catalogue, StreamPlace, Volume
from appliance.backup.volume import MountedDrive
from appliance.failures import Failure, OperatorError
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import ssc

_FILEMARKS: Final = 1  # SPACE
_BATCH_FILES: Final = 10_000
LIMIT_INDEX_BYTES: Final = 64 << 30


class Index:
    """The index of one cartridge, read into a file of `directory`; close() it."""

    def __init__(self, drive: MountedDrive, barcode: str, directory: Path) -> None:
        """Raises OperatorError: the cartridge cannot be loaded, or has no index."""
        self.barcode = barcode
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115 - close() closes it
        try:
            drive.mount(barcode)
            drive.tape.run(ssc.Space6.encode(code=_FILEMARKS, count=1))
            self._read(drive)
            self._packed = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115
            self._packed_unchanged = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115
            self.head = self._unpack()
        except (CommandFailed, index.BadIndex, tarfile.TarError, KeyError) as error:
            self._file.close()
            message = f"cartridge {barcode} has no index of a backup, or one that cannot be read: {error}"
            raise OperatorError(Failure.REFUSED, message) from None

    def _read(self, drive: MountedDrive) -> None:
        """Up to the filemark."""
        block, total = bytearray(TAPE_BLOCK), 0
        while True:
            try:
                length = drive.tape.read_block(block)
            except CommandFailed as stopped:
                if stopped.sense is not None and stopped.sense.filemark:
                    self._file.flush()
                    return
                raise
            total += length
            if total > LIMIT_INDEX_BYTES:
                raise index.BadIndex("it is larger than any index")
            self._file.write(memoryview(block)[:length])

    def _unpack(self) -> dict[str, Any]:
        with tarfile.open(self._file.name) as tar:
            head = index.read_head(_member(tar, index.HEAD).read(16 << 20))
            _copy(tar, index.FILES, self._packed)
            if head["chain"]:
                _copy(tar, index.UNCHANGED, self._packed_unchanged)
            return head

    def volumes(self) -> list[Volume]:
        """Raises BadIndex."""
        try:
            return [
                Volume(int(row["number"]), str(row["barcode"]), int(row["archive_bytes"]), True, True)
                for row in self.head["volumes"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise index.BadIndex(f"its volumes make no sense: {error}") from None

    def fill(self, path: Path) -> None:
        """A catalogue with what it says. Raises BadIndex, OSError."""
        made = path.with_name(path.name + ".new")
        facts = {name: self.head.get(name) for name in index.FACTS}
        catalogue = Catalogue.create(made, facts)
        try:
            rows = index.read_files(Path(self._packed.name))
            count = 0
            while batch := list(itertools.islice(rows, _BATCH_FILES)):
                catalogue.put_read_back(batch)
                count += len(batch)
            if self.head["chain"]:
                catalogue.put_unchanged(index.read_unchanged(Path(self._packed_unchanged.name)))
            volumes = self.volumes()
            for volume in volumes:
                catalogue.put_volume(volume)
            place = StreamPlace(len(volumes) + 1, Checkpoint(first_number=count))
            catalogue.put_facts(place=asdict(place), read_back_from=self.barcode)
        except BaseException:
            catalogue.close()
            made.unlink(missing_ok=True)
            raise
        catalogue.close()
        made.replace(path)

    def close(self) -> None:
        """Its files are gone."""
        self._file.close()
        self._packed.close()
        self._packed_unchanged.close()


def _member(tar: tarfile.TarFile, name: bytes) -> IO[bytes]:
    """Raises KeyError, BadIndex."""
    if (found := tar.extractfile(name.decode())) is None:
        raise index.BadIndex("its members are no files")
    return found


def _copy(tar: tarfile.TarFile, name: bytes, into: IO[bytes]) -> None:
    shutil.copyfileobj(_member(tar, name), into, 1 << 20)
    into.flush()


def best(found: Sequence[Index]) -> dict[str, Index]:
    """Of each backup, by identifier, the index that knows the most volumes."""
    chosen: dict[str, Index] = {}
    for one in found:
        known = chosen.get(one.head["identifier"])
        if known is None or len(one.head["volumes"]) > len(known.head["volumes"]):
            chosen[one.head["identifier"]] = one
    return chosen
