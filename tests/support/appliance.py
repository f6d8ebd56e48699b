"""A live Tapebay for one test: its own folder, its own process, its own port, stopped by its own fixture."""

import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from appliance.control import client as control
from appliance.library.files import LibraryFiles
from appliance.settings import config_file
from tests.support.daemon_log import DaemonLog
from tests.support.ports import free_ports
from tests.support.prepared import Process

GUEST_SEES_HOST_AS = "10.0.2.2"
TARGET_NAME = "iqn.2026-11.io.tapebay:under-test"
STOP_SECONDS = 60
FIRST_BARCODE = "TST001L6"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the library under test."""

    name: str
    size: str
    options: str = ""  # more lines for its section of tapebay.toml


class Appliance:
    """`tapebay serve` on a fresh library: a changer at LUN 0, drives from 1, then the disks.

    `advertise` is the host name that discovery answers. `more` is added to tapebay.toml. `log` is what it
    has said.
    """

    def __init__(
        self,
        folder: Path,
        *,
        disks: Sequence[Disk] = (),
        drives: int = 2,
        slots: int = 20,
        cartridges: int = 4,
        portals: int = 1,
        advertise: str | None = None,
        target_options: str = "",
        log_level: str = "info",
        more: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.target_name = TARGET_NAME
        # Chosen here, not by port 0, so that they can be advertised and survive a restart.
        self.ports = free_ports(portals)
        self.portals = [f"127.0.0.1:{port}" for port in self.ports]
        self.port, self.portal = self.ports[0], self.portals[0]
        self._devices = ["changer", *(f"drive{n}" for n in range(drives)), *(disk.name for disk in disks)]
        self._advertise = advertise
        self.config = folder / "tapebay.toml"
        self.config.write_text(self._settings(disks, drives, slots, target_options, log_level, more))
        self._make_library()
        self._log = DaemonLog()
        self._environment = environment or {}
        self._process: Process | None = None
        self.start()
        if cartridges:
            self.call("cartridge.create", barcode=FIRST_BARCODE, count=cartridges)

    @classmethod
    def with_loaded_drive(cls, folder: Path, **options: Any) -> Self:
        """One with a cartridge in its first drive."""
        appliance = cls(folder, **options)
        try:
            appliance.load()
        except BaseException:
            appliance.stop()
            raise
        return appliance

    def _settings(
        self, disks: Sequence[Disk], drives: int, slots: int, target_options: str, log_level: str, more: str
    ) -> str:
        sections = ['[library]\nname = "under-test"', f'[logging]\nformat = "json"\nlevel = "{log_level}"']
        sections.append(f"[changer]\nslots = {slots}")
        for port in self.ports:
            advertised = f'\nadvertise = "{self._advertise}:{port}"' if self._advertise else ""
            sections.append(f'[[portals]]\nlisten = "127.0.0.1:{port}"{advertised}')
        sections.append(f'[[targets]]\niqn = "{TARGET_NAME}"\n{target_options}')
        sections += [f'[[drives]]\nname = "drive{number}"' for number in range(drives)]
        sections += [f'[[disks]]\nname = "{disk.name}"\nsize = "{disk.size}"\n{disk.options}' for disk in disks]
        return "\n\n".join([*sections, more]) + "\n"

    def _make_library(self) -> None:
        """What `tapebay init` makes beside tapebay.toml; serving makes the disks."""
        LibraryFiles.create(config_file.load(self.config)).close()

    def image(self, disk: str) -> Path:
        """The file behind a disk."""
        return self.folder / "disks" / f"{disk}.img"

    def lun(self, device: str) -> int:
        """The logical unit number of "changer", "drive0" or a disk's name."""
        return self._devices.index(device)

    def url(self, device: str, portal: int = 0) -> str:
        """For libiscsi's tools."""
        return f"iscsi://{self.portals[portal]}/{self.target_name}/{self.lun(device)}"

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the daemon; return when it says that it is ready."""
        already = len(self.log)
        self._process = Process(["serve", "--apply", "--config", str(self.config)], self._log.file, **self._environment)
        if self._log.wait_for("ready", self._process, after=already) is None:
            self.kill()
            raise AssertionError(f"the appliance did not start:\n{self.log_text()}")

    @property
    def log(self) -> list[dict[str, Any]]:
        """All that it has said so far, over all of its starts."""
        return self._log.entries()

    def log_text(self) -> str:
        """The log for a failure's message."""
        return "\n".join(json.dumps(entry) for entry in self.log[-60:])

    def problems(self) -> list[dict[str, Any]]:
        """What it logged as an error, or not as a log entry at all (a traceback)."""
        return [entry for entry in self.log if entry.get("level") in ("error", "critical", "unstructured")]

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask over the control socket."""
        return control.call(self.folder / "tapebay.sock", method, **parameters)

    def load(self, barcode: str = FIRST_BARCODE, drive: str = "drive:0") -> None:
        """Put a cartridge into a drive, as an operator would."""
        self.call("load", cartridge=barcode, drive=drive)

    def resident_bytes(self) -> int:
        """How much memory the daemon holds."""
        status = Path(f"/proc/{self.process_id}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) << 10

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """SIGTERM; raise AssertionError unless it ends cleanly and in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the appliance did not stop:\n{self.log_text()}") from None
        status = self._reap()
        assert status == 0, f"the appliance ended with status {status}:\n{self.log_text()}"

    def _reap(self) -> int:
        assert self._process is not None
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        elif self.is_running():
            self.kill()
