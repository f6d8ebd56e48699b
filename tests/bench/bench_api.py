"""Tape throughput beside a busy API: 200 requests a second and 100 event streams.   python -m tests.bench.bench_api

Three kinds of rounds alternate, so that what else the machine does meets all of them; the best round of each counts:
alone; beside the clients and the API; and beside programs that only take the processor, as much of it and as politely
as the clients and the process of the API took. What the second has less than the third is what the API itself stands
in the way; what the third has less than the first is owed to a machine with too few processors for all of them.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.api_front import NICENESS
from tests.bench.api_load import CONNECTIONS
from tests.bench.bench_throughput import Place, build_load_generator, measure
from tests.support import certificates
from tests.support.appliance import Appliance
from tests.support.ports import free_port

REQUESTS_PER_SECOND = 200
STREAMS = 100
SLICE_SECONDS = 0.005
LOAD = "tests.bench.api_load"


@contextlib.contextmanager
def clients(port: int, token: str, authority: str, told: list[dict[str, float]], first: int) -> Iterator[None]:
    """The block has the clients of the API beside it, whose requests are the first-th on."""
    numbers = [str(number) for number in (REQUESTS_PER_SECOND, STREAMS, first)]
    command = [sys.executable, "-m", LOAD, str(port), token, authority, *numbers]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            output, _ = process.communicate()
    told.append(json.loads(output))


@contextlib.contextmanager
def spinning(*shares: tuple[float, int]) -> Iterator[None]:
    """The block has processes beside it that take such shares of a processor, each with its niceness."""
    with contextlib.ExitStack() as stack:
        for share, niceness in shares:
            command = [sys.executable, "-m", "tests.bench.bench_api", "--spin", str(share), str(niceness)]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            assert process.stdin is not None
            stack.callback(process.stdin.close)
        yield


def spin(share: float, niceness: int) -> None:
    """Takes `share` of a processor, in small pieces, until whoever started it closes standard input."""
    os.nice(niceness)
    os.set_blocking(0, False)
    began, before = time.monotonic(), time.process_time()
    while True:
        with contextlib.suppress(BlockingIOError):
            if os.read(0, 1) == b"":
                return
        end = time.process_time() + SLICE_SECONDS
        while time.process_time() < end:
            pass
        ahead = (time.process_time() - before) / share - (time.monotonic() - began)
        time.sleep(max(0.0, ahead))


def rate(measured: dict[str, float]) -> float:
    """Bytes a second."""
    return measured["bytes"] / measured["seconds"]


def processor_seconds(process_id: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_of(process_id: int) -> int:
    """The process of the API."""
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    (child,) = [int(number) for task in tasks for number in (task / "children").read_text().split()]
    return child


class Bench:
    """One library with the API turned on."""

    def __init__(self, program: Path, appliance: Appliance, port: int, authority: str) -> None:
        self._program, self._port, self._authority = program, port, authority
        self._drive = Place("tapebay", appliance.url("drive0"))
        self._token = appliance.call("token.create", name="bench", scope="operate")["token"]
        self._daemon, self._front = appliance.process_id, child_of(appliance.process_id)
        self._asked = 0

    def compare(self, block: tuple[str, int, int, int], rounds: int) -> None:
        """Measures and prints."""
        rates: dict[str, list[float]] = {"alone": [], "beside the API": [], "beside spinners": []}
        told = list[dict[str, float]]()
        for _ in range(rounds):
            rates["alone"].append(rate(self._measured(block)))
            rates["beside the API"].append(self._beside_the_api(block, told))
            with spinning((told[-1]["clients"], 0), (told[-1]["front"], NICENESS)):
                rates["beside spinners"].append(rate(self._measured(block)))
        best = {what: max(measured) for what, measured in rates.items()}
        mode, block_bytes, _, depth = block
        said = ", ".join(f"{what} {measured / 1e6:.0f} MB/s" for what, measured in best.items())
        beside = best["beside the API"]
        print(f"{mode} {block_bytes >> 10} KiB depth {depth}: {said}")
        print(f"   API to alone {beside / best['alone']:.2f}, API to spinners {beside / best['beside spinners']:.2f}")
        for row in told:
            print(_said(row))

    def _measured(self, block: tuple[str, int, int, int]) -> dict[str, Any]:
        return measure(self._program, block[0], self._drive, *block[1:])

    def _beside_the_api(self, block: tuple[str, int, int, int], told: list[dict[str, float]]) -> float:
        before = [processor_seconds(one) for one in (self._daemon, self._front)]
        began = time.monotonic()
        with clients(self._port, self._token, self._authority, told, self._asked):
            found = rate(self._measured(block))
        seconds = time.monotonic() - began
        self._asked = int(told[-1]["asked"])
        daemon, front = (
            (processor_seconds(one) - was) / seconds
            for one, was in zip((self._daemon, self._front), before, strict=True)
        )
        shares = {"daemon": daemon, "front": front, "clients": told[-1]["processor_seconds"] / seconds}
        told[-1].update({name: max(0.01, share) for name, share in shares.items()})
        return found


def _said(row: dict[str, float]) -> str:
    """What the clients of one round met."""
    return (
        f"   {row['requests'] / row['seconds']:.0f} requests/s, {row['late'] / max(1, row['requests']):.0%} late, "
        f"{row['failures']} failed, median {row['median_ms']:.1f} ms, worst {row['worst_ms']:.0f} ms; "
        f"{row['moves']} moves, {row['events']} events on {row['streams']} streams; processors: clients "
        f"{row['clients']:.2f}, API {row['front']:.2f}, daemon {row['daemon']:.2f} (with the data)"
    )


def run(folder: Path, rounds: int, blocks: Sequence[tuple[str, int, int, int]], tls: bool) -> None:
    """All of it."""
    program, port = build_load_generator(folder), free_port()
    pair = certificates.make(folder)
    files = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n' if tls else ""
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n{files}'
    with Appliance.with_loaded_drive(folder, slots=120, cartridges=CONNECTIONS + 3, more=more) as appliance:
        bench = Bench(program, appliance, port, str(pair.authority) if tls else "")
        for block in blocks:
            bench.compare(block, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spin", nargs=2, metavar=("SHARE", "NICENESS"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=4000)
    parser.add_argument("--tls", action="store_true", help="the API over TLS")
    given = parser.parse_args()
    if given.spin:
        spin(float(given.spin[0]), int(given.spin[1]))
        return
    kinds = [("write", 64 << 10, 1), ("write", 256 << 10, 1), ("write", 256 << 10, 8), ("read", 256 << 10, 8)]
    blocks = [(mode, size, max(1, given.megabytes * 1_000_000 // size), depth) for mode, size, depth in kinds]
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given.rounds, blocks, given.tls)


if __name__ == "__main__":
    main()
