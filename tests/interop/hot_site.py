"""A library with disks for a guest that backs itself up hot, and what is found on its tapes afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import sys
import tarfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.interop import guest
from tests.interop.guest import HOST_ADDRESS, GuestRun, Step
from tests.support import certificates
from tests.support.appliance import TARGET_NAME, Appliance, Disk
from tests.support.ports import free_port
from vlib_images.cartridge.cartridge import Cartridge, ReadKind

ROOT = Path(__file__).resolve().parents[2]
TAPE_BLOCK = 256 << 10
BARCODE = "TST001L6"
DISKS = ("plain", "parted", "xfs")

# Writes a row in each transaction until it is ended, so that a backup always comes into the middle of something.
WRITER = r"""
import hashlib, os, sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA journal_mode=WAL")
base.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, noise BLOB, digest TEXT)")
number = 0
while True:
    number += 1
    noise = os.urandom(3000)
    base.execute("INSERT INTO rows VALUES (?, ?, ?)", (number, noise, hashlib.sha256(noise).hexdigest()))
    with open(sys.argv[2] + ".new", "w") as told:
        told.write(str(number))
    os.replace(sys.argv[2] + ".new", sys.argv[2])
"""

STEPS = r"""
tapebay() { "$PYTHON" -m appliance "$@"; }
device_of() { # the block device of a disk of the library, by its serial number
	local page
	page=$(grep -l "$(cat /mnt/share/serial.$1)" /sys/block/sd*/device/vpd_pg80 2>/dev/null | head -1)
	[ -n "$page" ] && echo "/dev/$(echo "$page" | cut -d/ -f4)"
}
written() { [ -s "$1" ] && [ "$(cat "$1")" -gt "${2:-0}" ]; }
new_disk() { # restore the image in that backup into a new disk of that name, which appears here: as what
	ls /sys/block >/tmp/disks.before
	tapebay restore $1 --to-disk $2 --json >/tmp/restored 2>&1 || { cat /tmp/restored >&2; return 1; }
	iscsiadm -m session --rescan >/dev/null && retry appeared
}
appeared() { ls /sys/block | diff /tmp/disks.before - | grep -o 'sd.*'; }
tape() { # the drive that has a cartridge
	local drive
	for drive in /dev/nst[0-9]; do mt -f $drive status 2>/dev/null | grep -q ONLINE && echo $drive && return; done
	return 1
}
"""


def barcode(number: int) -> str:
    """Of a cartridge of a site, from 1 on."""
    return f"TST{number:03}L6"


class Site(Appliance):
    """Disks, a gate for the snapshots, the API over TLS."""

    def __init__(self, folder: Path, disks: Sequence[str] = DISKS, *, cartridges: int = 4) -> None:
        self.pair = certificates.make(folder, address=HOST_ADDRESS)
        self.api_port = free_port()
        more = f"""
[gate]
target = "iqn.2026-11.io.tapebay:gate"
[api]
listen = "127.0.0.1:{self.api_port}"
certificate = "{self.pair.certificate}"
key = "{self.pair.key}"
"""
        self._names = disks
        made = [Disk(name, "320 MiB") for name in disks]
        super().__init__(folder, disks=made, cartridges=cartridges, advertise=HOST_ADDRESS, more=more)
        self.token = self.call("token.create", name="agent", scope="operate")["token"]

    def run(
        self, *steps: Step, programs: Mapping[str, str] = {}, timeout_seconds: float = 240,
        initiator_name: str = guest.INITIATOR_NAME,
    ) -> GuestRun:  # fmt: skip
        """In a guest that is logged in. programs: more of them, by their names in /mnt/share."""
        serials = []
        for unit in self.call("status")["devices"]:
            if unit["name"] in self._names:
                serials.append(self.folder / f"serial.{unit['name']}")
                serials[-1].write_text(unit["serial"])
        environment = {
            "PYTHON": sys.executable, "PYTHONPATH": os.environ.get("PYTHONPATH") or str(ROOT),
            "TAPEBAY_TOKEN": self.token,
            "TAPEBAY_API": f"https://{HOST_ADDRESS}:{self.api_port}",
            "TAPEBAY_CERTIFICATE_AUTHORITY": f"/mnt/share/{self.pair.authority.name}",
        }  # fmt: skip
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        written = []
        for name, text in {"writer.py": WRITER, **programs}.items():
            written.append(self.folder / name)
            written[-1].write_text(text)
            written[-1].chmod(0o600)  # one may hold a token
        return guest.run(
            [
                Step("set up", exports + STEPS), Step("iscsid", "start_iscsid"), Step("discover", "discover"),
                Step("log in", f"log_in {3 + len(self._names)}"), *steps,
            ],
            portal=f"{HOST_ADDRESS}:{self.port}",
            target=TARGET_NAME,
            files=[self.pair.authority, *written, *serials],
            timeout_seconds=timeout_seconds,
            initiator_name=initiator_name,
        )  # fmt: skip

    def agent_files(self, job: str, **changes: Any) -> dict[str, str]:
        """A pairing, and a job that the documents show, with another `paths` or `to`."""
        shown = documented_jobs()[job] | changes
        appliance = {
            "url": f"https://{HOST_ADDRESS}:{self.api_port}", "token_file": "agent.token",
            "certificate_authority": self.pair.authority.name,
        }  # fmt: skip
        lines = ["[appliance]", *(f"{name} = {json.dumps(value)}" for name, value in appliance.items())]
        lines += ["[[jobs]]", *(f"{name} = {json.dumps(value)}" for name, value in shown.items())]
        return {"agent.toml": "\n".join(lines) + "\n", "agent.token": self.token}

    def archive(self, barcode: str = BARCODE) -> Path:
        with Cartridge.open(self.folder / "cartridges" / barcode, read_only=True) as cartridge:
            return _first_file(cartridge, self.folder / f"{barcode}.tar")


def documented_jobs() -> dict[str, dict[str, Any]]:
    """The worked examples of docs/backup.md, by their names."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/backup.md").read_text(), re.DOTALL)
    return {job["name"]: job for block in blocks for job in tomllib.loads(block)["jobs"]}


def _first_file(cartridge: Cartridge, into: Path) -> Path:
    cartridge.rewind()
    buffer = bytearray(TAPE_BLOCK)
    with into.open("wb") as file:
        while (result := cartridge.read_block(buffer)).kind is not ReadKind.FILEMARK:
            file.write(memoryview(buffer)[: result.length])
    return into


def report_of(output: str) -> dict[str, Any]:
    """What `--json` printed, after what was told meanwhile."""
    found: dict[str, Any] = json.loads(output[output.index("{\n") :])
    return found


def files_of(archive: Path) -> dict[str, bytes]:
    """The plain files of an archive by their names, without what leads to their mount points."""
    found: dict[str, bytes] = {}

    def below(name: str) -> str:
        return name.removeprefix("guest/").removeprefix("srv/")

    with tarfile.open(archive, mode="r|", bufsize=TAPE_BLOCK) as tar:
        for member in tar:
            if member.isreg() and (file := tar.extractfile(member)) is not None:
                found[below(member.name)] = file.read()
            elif member.islnk():
                found[below(member.name)] = found[below(member.linkname)]
    return found


def rows_of(folder: Path, files: dict[str, bytes]) -> int:
    """How many rows the database has, which its own check calls whole."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with closing(sqlite3.connect(folder / "base.db")) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = base.execute("SELECT number, noise, digest FROM rows ORDER BY number").fetchall()
    assert [number for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert all(hashlib.sha256(noise).hexdigest() == digest for _, noise, digest in rows)
    return len(rows)
