"""The demonstration: a library is made and served, a disk's files are backed up to a tape, read back and compared."""

import errno
import shlex
import socket
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from appliance.control import client as control
from appliance.demo import cartridges, read_back, spawn
from appliance.demo.cartridges import Ask
from appliance.demo.read_back import DemoSite, ReadBack
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from appliance.operations.setup import DEMO_DISK
from appliance.progress import Progress
from appliance.settings import config_file
from appliance.settings.sections import CHANGER
from appliance.settings.settings import Settings
from appliance.settings.units import HostAndPort, format_size, parse_address
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
    ask = partial(control.call, socket_path)
    _free_drive(settings, ask("status"))  # before anything is written
    barcode = cartridges.choose(settings, ask("status"), ask)
    if not (settings.library.cartridges / barcode).exists():
        ask("cartridge.create", barcode=barcode)
    began = time.monotonic()
    backup = _backup(barcode, ask, progress)
    seconds = time.monotonic() - began
    status = ask("status")
    found = _read_back(settings, status, barcode, backup["volumes"][0]["archive_bytes"], progress)
    _refuse_differences(found, ask, backup["number"])
    steps = [
        _step("files to tape by EXTENDED COPY", backup["content_bytes"], seconds),
        _step("read the tape over iSCSI, through tar", found.archive_bytes, found.seconds),
    ]
    return _report(path, status, barcode, backup, found, steps, notes)


def _step(name: str, length_bytes: int, seconds: float) -> dict[str, Any]:
    rate = round(length_bytes / max(seconds, 1e-3) / 1e6, 1)
    return {"name": name, "bytes": length_bytes, "seconds": round(seconds, 3), "megabytes_per_second": rate}


def _make(directory: Path, portal: str, progress: Progress) -> list[str]:
    wanted = parse_portal(portal)
    chosen = free_address(wanted)
    setup.create(directory, setup.plan(directory, portal=str(chosen), demo=True), progress)
    notes = [f"Made a library in {directory}."]
    if chosen != wanted:
        notes.append(f"Port {wanted.port} is taken, so the library listens on port {chosen.port}.")
    return notes


def parse_portal(text: str) -> HostAndPort:
    """Raises OperatorError USAGE."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, str(error)) from None


def free_address(wanted: HostAndPort) -> HostAndPort:
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
        return HostAndPort(wanted.host, port)
    raise OperatorError(Failure.REFUSED, f"no port is free from {wanted.port} on; name one with --portal")


def local_address(listen: str) -> HostAndPort:
    """Where this machine reaches a portal that listens on `listen`, wildcards included."""
    address = parse_address(listen)
    return HostAndPort({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port)


def _backup(barcode: str, ask: Ask, progress: Progress) -> dict[str, Any]:
    """Have the library back the disk up. No byte of a file comes here."""
    report: dict[str, Any] = ask("backup.start", progress=progress, disks=[DEMO_DISK], to=[barcode], overwrite=True)
    if report["state"] != "done":
        raise OperatorError(Failure.INTERNAL, f"the backup ended as {report['state']}: {report['reason']}")
    return report


def _read_back(settings: Settings, status: dict[str, Any], barcode: str, total: int, progress: Progress) -> ReadBack:
    target = status["targets"][0]
    lun = {name: int(number) for number, name in target["luns"].items()}
    if CHANGER not in lun:
        message = "the demonstration needs a target with the media changer of the whole library, and so no partitions"
        raise OperatorError(Failure.REFUSED, message)
    drive, name = _free_drive(settings, status)
    site = DemoSite(
        changer_lun=lun[CHANGER],
        drive_lun=lun[name],
        cartridge_address=next(row["address"] for row in status["elements"] if row["barcode"] == barcode),
        drive_address=drive,
    )
    portal = str(local_address(status["portals"][0]["listen"]))
    try:
        with InitiatorSession(portal, target["iqn"]) as session:
            return read_back.run(session, site, total, progress)
    except LibraryUnavailable as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error
    except (InitiatorError, CommandFailed, NoSuchAnswer, tarfile.TarError) as error:
        raise OperatorError(Failure.INTERNAL, f"the demonstration failed: {error}") from error


def _refuse_differences(found: ReadBack, ask: Ask, number: int) -> None:
    """Each file that was read over iSCSI has the checksum that the copy made from the disk."""
    files = ask("catalogue.show", number=number, limit=100_000)
    expected = {file["name"]: int(file["crc32c"], 16) for file in files if file["kind"] == "file"}
    differing = sorted(
        name for name in {*expected, *found.checksums} if expected.get(name) != found.checksums.get(name)
    )
    if differing:
        raise OperatorError(Failure.INTERNAL, f"the tape does not hold what the disk does: {', '.join(differing[:5])}")


def _free_drive(settings: Settings, status: dict[str, Any]) -> tuple[int, str]:
    """The element address of the first empty drive, and the drive's name."""
    drives = [row for row in status["elements"] if row["place"].startswith("drive:")]
    for section, drive in zip(settings.drives, drives, strict=True):
        if drive["barcode"] is None:
            return drive["address"], section.name
    raise OperatorError(Failure.REFUSED, "every drive is loaded; empty one: tapebay unload drive:0")


def _report(
    path: Path, status: dict[str, Any], barcode: str, backup: dict[str, Any], found: ReadBack,
    steps: list[dict[str, Any]], notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    target = status["targets"][0]["iqn"]
    portal = status["portals"][0]["advertised"] or str(local_address(status["portals"][0]["listen"]))
    content = format_size(backup["content_bytes"])
    listed = [f"tar lists {found.listed} members, the first of them:", *(f"| {line}" for line in found.lines)]
    return {
        "notes": notes,
        "title": f"The {len(found.checksums)} files of disk {DEMO_DISK} ({content}) backed up to cartridge {barcode}",
        "steps": steps,
        "sha256": found.sha256,
        "files": len(found.checksums),
        "listed": found.listed,
        "network_payload_bytes": 0,
        "barcode": barcode,
        "backup": backup["number"],
        "equal": True,
        "config": str(path),
        "portal": portal,
        "target": target,
        "pid": status["pid"],
        "text": [
            "Each file on tape has the CRC32C that it has on the disk.",
            "Bytes of files over a server's network while they were backed up: 0. The library moved the data itself.",
            *(listed if found.lines else []),
            "",
            *_try_it(path, status, barcode, portal),
        ],
    }


def _try_it(path: Path, status: dict[str, Any], barcode: str, portal: str) -> list[str]:
    program = Path(sys.argv[0])
    tapebay = shlex.quote(str(program)) if program.name != "__main__.py" else f"{sys.executable} -m appliance"
    config = f"--config {shlex.quote(str(path.parent))}"
    target = status["targets"][0]["iqn"]
    serial = {device["name"]: device["serial"] for device in status["devices"]}
    place = next(row["place"] for row in status["elements"] if row["barcode"] == barcode)
    slot = place.removeprefix("slot:")
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
        f"  mtx -f $CHANGER load {slot} 0        # {barcode}, into the first drive",
        "  mt -f $TAPE setblk 0",
        "  tar -b 512 -tvf $TAPE",
        f"  mtx -f $CHANGER unload {slot} 0",
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
