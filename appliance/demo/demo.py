"""The demonstration: a library is made and served, a disk is copied to a tape over iSCSI, read back and compared."""

import errno
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

from appliance.control import client as control
from appliance.demo import cartridges, spawn
from appliance.demo import copy as demo_copy
from appliance.demo.copy import Copied, DemoSite
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from appliance.operations.setup import DEMO_DISK
from appliance.progress import Progress
from appliance.settings import config_file
from appliance.settings.settings import CHANGER, Settings
from appliance.settings.units import Address, format_size, parse_address
from datamover.initiator import InitiatorError, InitiatorSession
from datamover.libiscsi import LibraryUnavailable
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer

PORTS_TRIED = 100


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
    socket_path = settings.library.control_socket
    barcode = cartridges.choose(settings, control.call(socket_path, "status"))
    if not (settings.library.cartridges / barcode).exists():
        control.call(socket_path, "cartridge.create", barcode=barcode)
    status = control.call(socket_path, "status")
    copied = _copy(settings, status, barcode, progress)
    return _report(path, status, barcode, copied, notes)


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


def _copy(settings: Settings, status: dict[str, Any], barcode: str, progress: Progress) -> Copied:
    target = status["targets"][0]
    lun = {name: int(number) for number, name in target["luns"].items()}
    if CHANGER not in lun:
        message = "the demonstration needs a target with the media changer of the whole library, and so no partitions"
        raise OperatorError(Failure.REFUSED, message)
    drive, name = _free_drive(settings, status)
    place = DemoSite(
        changer_lun=lun[CHANGER],
        drive_lun=lun[name],
        disk_lun=lun[DEMO_DISK],
        cartridge_address=next(row["address"] for row in status["elements"] if row["barcode"] == barcode),
        drive_address=drive,
    )
    portal = str(local_address(status["portals"][0]["listen"]))
    try:
        with InitiatorSession(portal, target["iqn"]) as session:
            copied = demo_copy.run(session, place, progress)
    except LibraryUnavailable as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error
    except (InitiatorError, CommandFailed, NoSuchAnswer) as error:
        raise OperatorError(Failure.INTERNAL, f"the demonstration failed: {error}") from error
    if copied.disk_sha256 != copied.tape_sha256:
        message = f"the tape ({copied.tape_sha256}) does not hold what the disk does ({copied.disk_sha256})"
        raise OperatorError(Failure.INTERNAL, message)
    return copied


def _free_drive(settings: Settings, status: dict[str, Any]) -> tuple[int, str]:
    """The element address of the first empty drive, and the drive's name."""
    drives = [row for row in status["elements"] if row["place"].startswith("drive:")]
    for section, drive in zip(settings.drives, drives, strict=True):
        if drive["barcode"] is None:
            return drive["address"], section.name
    raise OperatorError(Failure.REFUSED, "every drive is loaded; empty one: tapebay unload drive:0")


def _report(path: Path, status: dict[str, Any], barcode: str, copied: Copied, notes: list[str]) -> dict[str, Any]:
    target = status["targets"][0]["iqn"]
    portal = status["portals"][0]["advertised"] or str(local_address(status["portals"][0]["listen"]))
    size = copied.steps[0].bytes
    return {
        "notes": notes,
        "title": f"Disk {DEMO_DISK} ({format_size(size)}) copied to cartridge {barcode} by EXTENDED COPY",
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
        "barcode": barcode,
        "equal": True,
        "config": str(path),
        "portal": portal,
        "target": target,
        "pid": status["pid"],
        "text": [
            f"Disk and tape are equal: SHA-256 {copied.tape_sha256}.",
            "No byte of the copy crossed the initiator: it sent the commands, the library moved the data.",
            "",
            *_try_it(path, status, portal),
        ],
    }


def _try_it(path: Path, status: dict[str, Any], portal: str) -> list[str]:
    program = Path(sys.argv[0])
    tapebay = shlex.quote(str(program)) if program.name != "__main__.py" else f"{sys.executable} -m appliance"
    config = f"--config {shlex.quote(str(path.parent))}"
    target = status["targets"][0]["iqn"]
    serial = {device["name"]: device["serial"] for device in status["devices"]}
    first_drive = next(name for name in status["targets"][0]["luns"].values() if name not in (CHANGER, DEMO_DISK))
    return [
        f"The library keeps running: process {status['pid']}, log {path.parent / spawn.LOG_FILE}.",
        "With your own initiator, as root (devices are found by serial number: another drive may be /dev/nst0):",
        "",
        f"  iscsiadm -m discovery -t sendtargets -p {portal}",
        f"  iscsiadm -m node -T {target} -p {portal} --login",
        "  lsscsi -g",
        f"  CHANGER=/dev/$({found_by_serial('scsi_generic/sg*', serial[CHANGER])})",
        f"  TAPE=/dev/$({found_by_serial('scsi_tape/nst*[0-9]', serial[first_drive])})",
        "  mtx -f $CHANGER load 1 0        # slot 1 into the first drive",
        "  mtx -f $CHANGER status",
        "  mt -f $TAPE status",
        "  tar -cf $TAPE -b 512 /etc/hostname",
        "  sg_inq $CHANGER",
        f"  iscsiadm -m node -T {target} -p {portal} --logout",
        "",
        f"Look at it: {tapebay} status {config}",
        f"Stop it:    {tapebay} stop {config}",
    ]


def found_by_serial(kind: str, serial: str) -> str:
    """A shell command that prints the name of the device of that class and serial number; Linux keeps VPD page 80h."""
    return f"grep -las {serial} /sys/class/{kind}/device/vpd_pg80 | cut -d/ -f5"
