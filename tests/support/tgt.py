"""Debian's tgt as a second opinion: the same test run against an independent target tells whose fault a failure is."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.waiting import eventually

TARGET_NAME = "iqn.2012-08.org.example:stand-in"


def installed() -> bool:
    """Whether the Debian package `tgt` is there."""
    return all(_program(name) for name in ("tgtd", "tgtadm", "tgtimg"))


def _program(name: str) -> str | None:
    # Debian keeps them in /usr/sbin, which an ordinary user's PATH does not name.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class TgtTarget:
    """One tgtd of our own on a spare port, with its control socket in a folder of its own.

    Logical units: 1 is a tape drive with a tape in it, 2 is a disk. tgt itself answers as LUN 0 (a controller).
    """

    tape_lun = 1
    disk_lun = 2
    target_name = TARGET_NAME

    def __init__(self, *, tape_megabytes: int = 1024, disk_megabytes: int = 64, nexus_options: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tgt."))
        self.port = free_port()
        self.portal = f"127.0.0.1:{self.port}"
        self._environment = dict(os.environ, TGT_IPC_SOCKET=str(self._folder / "control"))
        self._daemon = subprocess.Popen(
            [_program("tgtd") or "tgtd", "-f", "--iscsi", f"portal={self.portal}{nexus_options}"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_until_it_answers()
            self._administer("--lld iscsi --op new --mode target --tid 1", "-T", TARGET_NAME)
            self._add_tape(tape_megabytes)
            self._add_disk(disk_megabytes)
            self._administer("--lld iscsi --op bind --mode target --tid 1 -I ALL")
        except BaseException:
            self.stop()
            raise

    @property
    def tape_image(self) -> Path:
        """The file that the tape is kept in."""
        return self._folder / "tape"

    @property
    def process_id(self) -> int:
        return self._daemon.pid

    def _administer(self, words: str, *more: str) -> None:
        command = [_program("tgtadm") or "tgtadm", *words.split(), *more]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)

    def _wait_until_it_answers(self) -> None:
        def answers() -> bool:
            assert self._daemon.poll() is None, "tgtd has ended"
            self._administer("--op show --mode system")
            return True

        eventually(answers, despite=(subprocess.CalledProcessError,))

    def _add_tape(self, megabytes: int) -> None:
        image = self.tape_image
        subprocess.run(
            [
                _program("tgtimg") or "tgtimg",
                *("--op", "new", "--device-type", "tape", "--barcode", "TGT00001", "--type", "data"),
                *("--size", str(megabytes), "--file", str(image)),
            ],
            check=True,
            capture_output=True,
        )
        self._add_logical_unit(self.tape_lun, image, "tape")
        self._administer(f"--lld iscsi --mode logicalunit --op update --tid 1 --lun {self.tape_lun} --params online=1")

    def _add_disk(self, megabytes: int) -> None:
        image = self._folder / "disk"
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        self._add_logical_unit(self.disk_lun, image, "disk")

    def _add_logical_unit(self, lun: int, image: Path, kind: str) -> None:
        self._administer(
            f"--lld iscsi --mode logicalunit --op new --tid 1 --lun {lun} --device-type={kind}", "-b", str(image)
        )

    def stop(self) -> None:
        """End the daemon and remove its folder. SIGKILL: tgtd ignores SIGTERM while a session is open."""
        self._daemon.kill()
        self._daemon.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
