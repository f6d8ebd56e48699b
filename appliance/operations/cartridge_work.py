"""What the command line does with a cartridge's files itself: checking, saving, importing and exporting take long and
need no device. A new cartridge appears whole or not at all, on the shelf."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.failures import Failure, OperatorError
from appliance.library.cartridges import INCOMING, capacity_of, medium_of, owned
from appliance.library.disks import is_database
from appliance.operations.perform import translated
from appliance.progress import Progress
from appliance.settings.settings import Settings
from vlib_images import interchange
from vlib_images.atomic import sync_directory
from vlib_images.cartridge import salvage, verify
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import KEY_BYTES, Decryption, DecryptionMode, EncryptionKey
from vlib_images.cartridge.salvage import SalvageReport
from vlib_images.cartridge.verify import VerifyReport
from vlib_images.interchange import FORMATS, InterchangeError, InterchangeReport
from vlib_images.library.elements import BARCODE
from vlib_images.plain_files import is_folder


def verify_cartridge(settings: Settings, barcode: str, progress: Progress) -> VerifyReport:
    """Read every record of a cartridge, also while the daemon serves it. Raises OperatorError."""
    with translated():
        return verify.verify(_directory(settings, barcode), lambda done: progress(done.bytes_checked, done.bytes_total))


def recover_cartridge(
    settings: Settings, barcode: str, new_barcode: str, medium: str | None, progress: Progress
) -> SalvageReport:
    """Copy what reads of a damaged cartridge, which is in no drive, to a new one. Raises OperatorError."""
    kind = medium_of(new_barcode, medium, False)
    with translated(), _incoming(settings, new_barcode) as destination:
        return salvage.salvage(
            _directory(settings, barcode),
            destination,
            barcode=new_barcode,
            medium=kind,
            progress=lambda done: progress(done.bytes_checked, done.bytes_total),
        )


def import_cartridge(
    settings: Settings,
    barcode: str,
    source: Path,
    format_name: str,
    medium: str | None,
    capacity: str | None,
    progress: Progress,
    *,
    salvage: bool = False,
) -> InterchangeReport:
    """Make a cartridge of another program's tape. salvage: keep what reads of a source that ends or is damaged on the
    way. Raises OperatorError."""
    kind = medium_of(barcode, medium, False)
    _format(format_name, "import")
    if is_database(settings, source):
        raise OperatorError(Failure.REFUSED, f"{source} is the library's own, and no tape of another program")
    size = capacity_of(capacity)
    total = _size(source)
    with (
        _refusing(f"{source} as {format_name}"),
        _incoming(settings, barcode) as directory,
        Cartridge.create(
            directory,
            barcode=barcode,
            medium=kind,
            capacity_bytes=size,
            partitions=min(kind.maximum_partitions, interchange.partitions_in(format_name, source)),
        ) as cartridge,
    ):
        return interchange.import_tape(
            format_name,
            source,
            cartridge,
            lambda report: progress(report.bytes_copied, max(total, report.bytes_copied)),
            salvage=salvage,
        )


def export_cartridge(
    settings: Settings,
    barcode: str,
    destination: Path,
    format_name: str,
    partition: int,
    key_file: Path | None,
    progress: Progress,
) -> InterchangeReport:
    """Write a partition of a cartridge, which is in no drive, as another program's tape. Raises OperatorError.

    key_file: what its encrypted blocks are decrypted with, as `stenc -g` makes it.
    """
    _format(format_name, "export")
    with (
        _refusing(f"{barcode} as {format_name}"),
        _decryption(key_file) as decryption,
        Cartridge.open(_directory(settings, barcode), read_only=True) as tape,
    ):
        if partition >= tape.partition_count:
            raise OperatorError(Failure.USAGE, f"--partition: {barcode} has partitions 0 to {tape.partition_count - 1}")
        total = tape.used_bytes(partition)
        tape.decryption = decryption
        return interchange.export_tape(
            format_name,
            tape,
            destination,
            partition,
            lambda report: progress(report.bytes_copied, max(total, report.bytes_copied)),
        )


def _size(source: Path) -> int:
    files = source.iterdir() if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file() and (path == source or not path.is_symlink()))


@contextmanager
def _decryption(key_file: Path | None) -> Iterator[Decryption]:
    """Its key is wiped in the end. The file's first line: 64 hexadecimal digits; the key itself is in no message."""
    if key_file is None:
        yield Decryption()
        return
    try:
        key = EncryptionKey(bytes.fromhex(key_file.read_text("ascii").split("\n", 1)[0].strip()))
    except ValueError:
        what = f"{key_file} is no key file: its first line must be a key of {KEY_BYTES * 2} hexadecimal digits"
        raise OperatorError(Failure.USAGE, what) from None
    except OSError as error:
        raise OperatorError(Failure.USAGE, f"{key_file}: {error.strerror}") from error
    try:
        yield Decryption(DecryptionMode.MIXED, key)
    finally:
        key.wipe()


def _format(name: str, direction: str) -> None:
    names = [row.name for row in FORMATS.values() if (row.reader if direction == "import" else row.writer)]
    if name not in names:
        raise OperatorError(Failure.USAGE, f"{name!r} cannot be {direction}ed; --format is one of {', '.join(names)}")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """What cannot be read or kept, in an operator's terms."""
    try:
        with translated():
            yield
    except (InterchangeError, ValueError) as error:
        raise OperatorError(Failure.REFUSED, f"{what}: {error}") from error


def _directory(settings: Settings, barcode: str) -> Path:
    path = settings.library.cartridges / barcode
    if not BARCODE.fullmatch(barcode) or not is_folder(path):
        raise OperatorError(Failure.NOT_FOUND, f"there is no cartridge {barcode} in {settings.library.cartridges}")
    return path


@contextmanager
def _incoming(settings: Settings, barcode: str) -> Iterator[Path]:
    """A directory that becomes the cartridge's own when the block ends well, and goes when it does not."""
    final = settings.library.cartridges / barcode
    if not BARCODE.fullmatch(barcode):
        raise OperatorError(
            Failure.USAGE, f"{barcode!r} is no barcode: capital letters and digits, for example A00001L6"
        )
    if os.path.lexists(final):
        raise OperatorError(Failure.REFUSED, f"there is a cartridge {barcode} already; give another barcode")
    unfinished = settings.library.cartridges / f"{INCOMING}{barcode}"
    unfinished.mkdir(exist_ok=True)
    with owned(unfinished) as ours:
        if not ours:
            raise OperatorError(Failure.REFUSED, f"{barcode} is being made by another command just now")
        try:
            for left in unfinished.iterdir():  # by a killed run
                shutil.rmtree(left) if is_folder(left) else left.unlink()
            yield unfinished
            unfinished.rename(final)
            sync_directory(final.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
