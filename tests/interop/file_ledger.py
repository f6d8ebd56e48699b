"""What the host knows of the files in a guest, from what file_load.py told it, and whether a disk image agrees."""

import hashlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Report:
    """One line of the load. moment: of the storage's log, or of whatever clock the ledger has."""

    moment: int
    kind: str  # will, is, gone
    name: str
    content: tuple[str, ...] = ()  # length and SHA-256


@dataclass
class Ledger:
    """Handlers for HostCalls. clock: gives the moment of a report; enough: whether the load may end."""

    clock: Callable[[], int]
    enough: Callable[["Ledger"], bool]
    reports: list[Report] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handlers(self) -> dict[str, Callable[..., object]]:
        return {kind: self._handler(kind) for kind in ("will", "is", "gone")}

    def _handler(self, kind: str) -> Callable[..., str | None]:
        def report(name: str, *content: str) -> str | None:
            with self.lock:
                self.reports.append(Report(self.clock(), kind, name, content))
                return "enough" if self.enough(self) else None

        return report

    def durable(self, moment: int) -> dict[str, Report]:
        """The files whose state was promised at that moment, by name."""
        last = {report.name: report for report in self.reports if report.moment <= moment}
        return {name: report for name, report in last.items() if report.kind != "will"}


def check_file_system(image: Path) -> str | None:
    """What e2fsck has against an ext4 image after its journal was replayed; None: nothing. Changes the image."""
    # -p replays, ends what the journal says was being truncated or deleted, and refuses everything that is damage.
    for arguments, good in ((("-fp",), (0, 1)), (("-fn",), (0,))):
        done = subprocess.run(["e2fsck", *arguments, image], check=False, capture_output=True, text=True)
        if done.returncode not in good:
            return f"e2fsck {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return None


def differences(image: Path, promised: dict[str, Report], folder: Path) -> list[str]:
    """How an ext4 image's files differ from what was promised; they are put into `folder`, which must be empty."""
    subprocess.run(["debugfs", "-R", f"rdump / {folder}", image], check=True, capture_output=True)
    return [f"{name}: {said}" for name, report in promised.items() if (said := _difference(folder / name, report))]


def _difference(path: Path, report: Report) -> str | None:
    if report.kind == "gone":
        return "is there again" if path.exists() else None
    if not path.exists():
        return "is gone"
    content = path.read_bytes()
    found: Sequence[str] = (str(len(content)), hashlib.sha256(content).hexdigest())
    return None if tuple(found) == report.content else f"has {found}, fsync promised {report.content}"
