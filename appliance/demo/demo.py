"""The demonstration: a library is made and served, a disk is copied to a tape over iSCSI, read back and compared."""

import errno
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.control import client as control
from appliance.demo import copy as demo_copy
from appliance.demo import spawn
from appliance.demo.copy import CommandFailed, Copied, Place
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from appliance.operations.setup import DEMO_DISK, DEMO_FIRST_BARCODE
from appliance.settings import config_file
from appliance.settings.settings import CHANGER, Settings
from appliance.settings.units import Address, format_size, parse_address
from datamover.initiator import InitiatorError, Session
from datamover.libiscsi import LibraryUnavailable

PORTS_TRIED = 100

Progress = Callable[[int, int], None]


def run(directory: Path, portal: str, progress: Progress) -> dict[str, Any]:
    """Do all of it and return the report. Raises OperatorError, ConfigError, OSError."""
    path = directory.absolute() / config_file.FILE_NAME
    notes = [] if path.exists() else _make(directory, portal, progress)
    settings = config_file.load(path)
    if DEMO_DISK not in settings.device_names() or not settings.drives:
        message = f"{path} is not the demonstration's library; name another directory: tapebay demo DIR"
        raise OperatorError(Failure.REFUSED, message)
    started = spawn.ensure_served(path, settings)
    notes.append("Started the library." if started else "The library was running already.")
    status = control.call(settings.library.control_socket, "status")
    copied = _copy(settings, status, progress)
    return _report(path, status, copied, notes)


def _make(directory: Path, portal: str, progress: Progress) -> list[str]:
    wanted = parse_portal(portal)
    chosen = free_address(wanted)
    setup.create(directory, setup.plan(directory, portal=str(chosen), demo=True), progress)
    notes = [f"Made a library in {directory}."]
    if chosen != wanted:
        notes.append(f"Port {wanted.port} is taken, so the library listens on port {chosen.port}.")
    return notes


def parse_portal(text: str) -> Address:
    """Raises OperatorError USAGE."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, str(error)) from None


def free_address(wanted: Address) -> Address:
    """The wanted address, or the same host with the next port that is free. Raises OperatorError."""
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    for port in range(wanted.port, min(wanted.port + PORTS_TRIED, 65536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((wanted.host, port))
                probe.listen(1)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise OperatorError(Failure.REFUSED, f"cannot listen on {wanted}: {error.strerror}") from error
                continue
        return Address(wanted.host, port)
    raise OperatorError(Failure.REFUSED, f"no port is free from {wanted.port} on; name one with --portal")


def local_address(listen: str) -> Address:
    """Where this machine reaches a portal that listens on `listen`, wildcards included."""
    address = parse_address(listen)
    return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


def _copy(settings: Settings, status: dict[str, Any], progress: Progress) -> Copied:
    target = status["targets"][0]
    lun = {name: int(number) for number, name in target["luns"].items()}
    source, drive, name = _choose(settings, status)
    place = Place(
        changer_lun=lun[CHANGER],
        drive_lun=lun[name],
        disk_lun=lun[DEMO_DISK],
        cartridge_address=source,
        drive_address=drive,
    )
    portal = str(local_address(status["portals"][0]["listen"]))
    try:
        with Session(portal, target["iqn"]) as session:
            copied = demo_copy.run(session, place, progress)
    except LibraryUnavailable as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error
    except (InitiatorError, CommandFailed) as error:
        raise OperatorError(Failure.INTERNAL, f"the demonstration failed: {error}") from error
    if copied.disk_sha256 != copied.tape_sha256:
        message = f"the tape ({copied.tape_sha256}) does not hold what the disk does ({copied.disk_sha256})"
        raise OperatorError(Failure.INTERNAL, message)
    return copied


def _choose(settings: Settings, status: dict[str, Any]) -> tuple[int, int, str]:
    """Element addresses of the cartridge and of the drive to use, and that drive's name."""
    names = [drive.name for drive in settings.drives]
    drives = [row for row in status["elements"] if row["place"].startswith("drive:")]
    where = next((row for row in status["elements"] if row["barcode"] == DEMO_FIRST_BARCODE), None)
    if where is None:
        message = f"cartridge {DEMO_FIRST_BARCODE} is not in the library; tapebay move it from the shelf to a slot"
        raise OperatorError(Failure.REFUSED, message)
    for name, drive in zip(names, drives, strict=True):
        if drive is where or (where not in drives and drive["barcode"] is None):
            return where["address"], drive["address"], name
    raise OperatorError(Failure.REFUSED, "every drive is loaded; empty one: tapebay unload drive:0")


def _report(path: Path, status: dict[str, Any], copied: Copied, notes: list[str]) -> dict[str, Any]:
    target = status["targets"][0]["iqn"]
    portal = status["portals"][0]["advertised"] or str(local_address(status["portals"][0]["listen"]))
    size = copied.steps[0].bytes
    return {
        "notes": notes,
        "title": f"Disk {DEMO_DISK} ({format_size(size)}) copied to cartridge {DEMO_FIRST_BARCODE} by EXTENDED COPY",
        "steps": [
            {
                "name": step.name,
                "bytes": step.bytes,
                "seconds": round(step.seconds, 3),
                "megabytes_per_second": round(step.bytes / step.seconds / 1e6, 1),
            }
            for step in copied.steps
        ],
        "sha256": copied.tape_sha256,
        "equal": True,
        "config": str(path),
        "portal": portal,
        "target": target,
        "pid": status["pid"],
        "text": [
            f"Disk and tape are equal: SHA-256 {copied.tape_sha256}.",
            "No byte of the copy crossed the initiator: it sent the commands, the library moved the data.",
            "",
            *_try_it(path, status["pid"], portal, target),
        ],
    }


def _try_it(path: Path, pid: int, portal: str, target: str) -> list[str]:
    program = Path(sys.argv[0])
    tapebay = shlex.quote(str(program)) if program.name != "__main__.py" else f"{sys.executable} -m appliance"
    config = f"--config {shlex.quote(str(path.parent))}"
    return [
        f"The library keeps running: process {pid}, log {path.parent / spawn.LOG_FILE}.",
        "With your own initiator, as root:",
        "",
        f"  iscsiadm -m discovery -t sendtargets -p {portal}",
        f"  iscsiadm -m node -T {target} -p {portal} --login",
        "  lsscsi -g",
        """  CHANGER=$(lsscsi -g | awk '$2 == "mediumx" { print $NF; exit }')""",
        """  TAPE=$(lsscsi | awk '$2 == "tape" { sub("/st", "/nst", $NF); print $NF; exit }')""",
        "  mt -f $TAPE status",
        "  mtx -f $CHANGER status",
        "  mtx -f $CHANGER load 2 1        # slot 2 into the second drive",
        "  sg_inq $CHANGER",
        f"  iscsiadm -m node -T {target} -p {portal} --logout",
        "",
        f"Look at it: {tapebay} status {config}",
        f"Stop it:    {tapebay} stop {config}",
    ]
