"""The four ways of a backup, side by side:  python -m tests.bench.table1 [--size 1GiB] [--rates 100M,1G,unlimited]

The same disk is backed up (a) over the production network through a backup server, (b) the same over a separate backup
network, (c) LAN-free: the server reads its disk and writes its drive over the SAN, (d) server-less: a hot backup by the
server's agent, which has a snapshot made and sends its lists over the production network; the library moves the data.
Every network, the SAN too, is limited to the rate in each direction. Each server is a process of its own; a system
counts as passed through when the data has come into it. What was written is read back and compared, outside the time
that is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.demo.read_back import FirstFile
from datamover.initiator import InitiatorSession
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from tests.bench.chart import Group, Panel, chart
from tests.bench.disk_copy import BLOCK_BYTES
from tests.support.appliance import Appliance
from tests.support.appliance import Disk as DiskOfAppliance
from tests.support.ports import free_port
from tests.support.shaped_network import ShapedNetwork

MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
APPLICATION, BACKUP, OPERATOR = (f"iqn.2026-01.org.example:{name}" for name in ("application", "backup", "operator"))
# Stage 1 as it is meant: each server sees what is its own.
ZONES = "".join(
    f'[[zones]]\nname = "{name}"\ninitiators = ["{initiator}"]\ndevices = {devices}\n'
    for name, initiator, devices in (
        ("application", APPLICATION, '["disk", "drive0"]'),
        ("backup", BACKUP, '["drive1"]'),
        ("operator", OPERATOR, '["disk", "drive0", "drive1"]'),
    )
)
WAYS = {
    "a": "over the production network",
    "b": "over a backup network",
    "c": "LAN-free",
    "d": "server-less",
}
NETWORKS = ("production", "backup", "SAN")
CARTRIDGE = "TST001L6"  # of the application's drive
LEAST_SHARE = 0.5  # of the data, which a system that it passes through takes in


@dataclass(frozen=True, slots=True)
class Row:
    """One backup. rate: bytes a second, None: unlimited. network_bytes: over each network, both ways. servers: that the
    data passed through."""

    way: str
    rate: float | None
    size: int
    seconds: float
    network_bytes: Mapping[str, int]
    server_seconds: float
    library_seconds: float
    servers: int

    @property
    def megabytes_per_second(self) -> float:
        return self.size / self.seconds / 1e6

    @property
    def server_seconds_per_gibibyte(self) -> float:
        return self.server_seconds * GIBIBYTE / self.size


class Server:
    """One of the programs of table1_servers."""

    def __init__(self, role: str, portal: tuple[str, int], target: str, initiator: str, **options: object) -> None:
        command = [sys.executable, "-m", "tests.bench.table1_servers", role, "--portal", _text(portal)]
        command += ["--target", target, "--initiator", initiator]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _, *port = self._line().split()
        self.port = int(port[0]) if port else 0

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with status {self.process.wait()}")
        return line

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Site:
    """A library with the disk to back up, and a drive for each server with a cartridge in it."""

    def __init__(self, appliance: Appliance, api_port: int, size: int) -> None:
        self.appliance, self.api_port, self.size = appliance, api_port, size
        self.token = appliance.call("token.create", name="application", scope="operate")["token"]
        for drive in range(2):
            appliance.load(f"TST00{drive + 1}L6", f"drive:{drive}")
        self.library = ("127.0.0.1", appliance.port)
        with self._operator() as session:
            self.sha256 = _fill(Disk(session, appliance.lun("disk")), size)

    def _operator(self) -> InitiatorSession:
        """By no network that is measured."""
        target = self.appliance.target_name
        return InitiatorSession(self.appliance.portal, target, initiator_name=OPERATOR, timeout_seconds=600)

    def back_up(self, way: str, rate: float | None) -> Row:
        """One backup, and the proof that it is one."""
        with ExitStack() as stack:
            networks = {name: stack.enter_context(ShapedNetwork(rate)) for name in NETWORKS}
            servers = [stack.enter_context(server) for server in self._servers(way, networks)]
            at_start = {name: network.bytes for name, network in networks.items()}
            library = self._library_seconds()
            for server in servers:
                server.begin()
            results = [server.result() for server in servers]
            row = Row(
                way,
                rate,
                self.size,
                results[-1]["seconds"],
                {name: network.bytes - at_start[name] for name, network in networks.items()},
                sum(result["processor_seconds"] for result in results),
                self._library_seconds() - library,
                sum(result["bytes_in"] >= LEAST_SHARE * self.size for result in results),
            )
        if way == "d":
            self._compare_archive()
        else:
            self._compare("drive1" if way in "ab" else "drive0")
        return row

    def _servers(self, way: str, networks: Mapping[str, ShapedNetwork]) -> Iterator[Server]:
        """Those that take part, the application's last."""
        lun, target = self.appliance.lun, self.appliance.target_name
        san = networks["SAN"].reach(self.library)
        own = {"disk": lun("disk"), "tape": lun("drive0")}
        if way == "c":
            yield Server("lan-free", san, target, APPLICATION, **own)
            return
        if way == "d":
            api = networks["production"].reach(("127.0.0.1", self.api_port))
            names = {"name": "disk", "drive": "drive0", "cartridge": CARTRIDGE}
            yield Server("server-less", san, target, APPLICATION, api=_text(api), token=self.token, **own, **names)
            return
        backup = Server("backup-server", san, target, BACKUP, tape=lun("drive1"))
        yield backup
        there = networks["production" if way == "a" else "backup"].reach(("127.0.0.1", backup.port))
        yield Server("through-a-server", san, target, APPLICATION, to=_text(there), **own)

    def _compare(self, drive: str) -> None:
        with self._operator() as session:
            tape = Tape(session, self.appliance.lun(drive), timeout_seconds=600)
            tape.rewind()
            if tape.sha256_of_file(self.size, BLOCK_BYTES) != self.sha256:
                raise SystemExit(f"what is on the tape in {drive} is not what is on the disk")
            tape.rewind()

    def _compare_archive(self) -> None:
        """What the hot backup has written: one file, as large as the disk. It has put the cartridge away."""
        self.appliance.load(CARTRIDGE, "drive:0")
        with self._operator() as session:
            tape = Tape(session, self.appliance.lun("drive0"), timeout_seconds=600)
            tape.rewind()
            tape.use_variable_blocks()
            first, digest = FirstFile(tape, None, lambda _done: None), hashlib.sha256()
            with tarfile.open(fileobj=first, mode="r|", bufsize=BLOCK_BYTES) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    while content is not None and (data := content.read(MEBIBYTE)):
                        digest.update(data)
            if digest.hexdigest() != self.sha256:
                raise SystemExit("the file of the hot backup is not what is on the disk")
            tape.rewind()

    def _library_seconds(self) -> float:
        fields = Path(f"/proc/{self.appliance.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def site(folder: Path, size: int) -> Iterator[Site]:
    disks = [DiskOfAppliance("disk", f"{size // MEBIBYTE} MiB")]
    port = free_port()
    api = f'[api]\nlisten = "127.0.0.1:{port}"\n'
    with Appliance(folder, disks=disks, more=ZONES + api) as appliance:
        yield Site(appliance, port, size)


def _fill(disk: Disk, size: int) -> str:
    """Random data; its SHA-256."""
    source = random.Random(1)
    for at in range(0, size, MEBIBYTE):
        disk.write(source.randbytes(MEBIBYTE), at // disk.capacity.block_length)
    return disk.sha256()


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


# ---- what is shown ---------------------------------------------------------------------------------------------------


def rate_name(rate: float | None) -> str:
    if rate is None:
        return "unlimited"
    bits = rate * 8
    return f"{bits / 1e9:g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:g} Mbit/s"


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| networks | backup | MB/s | MB, production | MB, backup network | MB, SAN | servers' CPU s/GiB "
        "| library's | servers passed through |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        moved = " | ".join(_megabytes(row.network_bytes[name]) for name in NETWORKS)
        library = row.library_seconds * GIBIBYTE / row.size
        lines.append(
            f"| {rate_name(row.rate)} | ({row.way}) {WAYS[row.way]} | {row.megabytes_per_second:.1f} | {moved} "
            f"| {row.server_seconds_per_gibibyte:.2f} | {library:.2f} | {row.servers} |"
        )
    return "\n".join(lines)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.{1 if count >= 1e5 or not count else 4}f}"


def plot(rows: Sequence[Row]) -> str:
    """SVG."""
    rates = list(dict.fromkeys(row.rate for row in rows))
    panels = {
        "MB/s": lambda row: row.megabytes_per_second,
        "MB over the production network": lambda row: row.network_bytes["production"] / 1e6,
        "MB over the SAN": lambda row: row.network_bytes["SAN"] / 1e6,
        "CPU seconds of servers for 1 GiB": lambda row: row.server_seconds_per_gibibyte,
    }
    return chart(
        [f"({way}) {name}" for way, name in WAYS.items()],
        [
            Panel(title, [Group(rate_name(rate), [value(row) for row in rows if row.rate == rate]) for rate in rates])
            for title, value in panels.items()
        ],
    )


def parse_rate(text: str) -> float | None:
    if text == "unlimited":
        return None
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: write 100M, 1G (bits a second) or unlimited")
    return float(found[1]) * {"M": 1e6, "G": 1e9}[found[2]] / 8


def parse_size(text: str) -> int:
    if not (found := re.fullmatch(r"(\d+)(MiB|GiB)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 64MiB or 1GiB")
    return int(found[1]) * {"MiB": MEBIBYTE, "GiB": GIBIBYTE}[found[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=GIBIBYTE)
    parser.add_argument("--rates", default="100M,1G,unlimited")
    parser.add_argument("--ways", default="abcd")
    parser.add_argument("--plot", type=Path, default=Path("table1.svg"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="table1.") as folder, site(Path(folder), given.size) as place:
        for rate in map(parse_rate, given.rates.split(",")):
            for way in given.ways:
                rows.append(place.back_up(way, rate))
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr)
    print(table(rows))
    given.plot.write_text(plot(rows))
    print(f"\nThe plot is in {given.plot}.")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
