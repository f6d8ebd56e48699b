"""Tape throughput beside a busy API: 200 requests a second and 100 event streams.   python -m tests.bench.bench_api

Rounds without and with that load alternate, so that what else the machine does meets both; the best round of each
counts. The clients of the API run on the same processors, and what they take is said: it is not the daemon's.
"""

import argparse
import asyncio
import contextlib
import json
import random
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.bench_throughput import Place, build_load_generator, measure
from tests.support import certificates
from tests.support.appliance import Appliance
from tests.support.ports import free_port

REQUESTS_PER_SECOND = 200
STREAMS = 100
CONNECTIONS = 20
CHANGES_EVERY = 40  # one request of so many moves a cartridge, which every stream is told of
SHOW, LIST = "/v1/cartridge/show?barcode=TST002L6", "/v1/cartridge/list?limit=20"
QUICK = ("/v1/drive/list", "/v1/health", "/v1/session/list")
LOOKS = (*(QUICK * 5), SHOW, SHOW, SHOW, SHOW, LIST)  # in turns: what programs that wait and watch ask for


# ---- the clients, in a process of their own --------------------------------------------------------------------------


@dataclass
class Seen:
    """What the clients met."""

    milliseconds: list[float] = field(default_factory=list)
    failures: int = 0
    events: int = 0


class Clients:
    """Asks at a steady rate over CONNECTIONS connections, and follows STREAMS streams."""

    def __init__(self, port: int, token: str, authority: str) -> None:
        self._port = port
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        self._tls = ssl.create_default_context(cafile=authority) if authority else None
        self.seen = Seen()

    async def run(self) -> None:
        """Until standard input ends."""
        streams = [asyncio.create_task(self._follow()) for _ in range(STREAMS)]
        askers = [asyncio.create_task(self._ask(number)) for number in range(CONNECTIONS)]
        await asyncio.to_thread(sys.stdin.read)
        for task in [*streams, *askers]:
            task.cancel()
        for result in await asyncio.gather(*streams, *askers, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                print(repr(result), file=sys.stderr)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)

    async def _follow(self) -> None:
        reader, writer = await self._connect()
        writer.write(f"GET /v1/events HTTP/1.1\r\n{self._head}Accept: text/event-stream\r\n\r\n".encode())
        while line := await reader.readline():
            self.seen.events += line.startswith(b"data:")
        raise ConnectionError("a stream ended")

    async def _ask(self, number: int) -> None:
        reader, writer = await self._connect()
        pause = CONNECTIONS / REQUESTS_PER_SECOND
        due = time.monotonic() + random.random() * pause
        count = random.randrange(CHANGES_EVERY)
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += pause
            count += 1
            began = time.monotonic()
            writer.write(self._request(number, count))
            await self._answer(reader)
            self.seen.milliseconds.append((time.monotonic() - began) * 1000)

    def _request(self, number: int, count: int) -> bytes:
        if count % CHANGES_EVERY:
            return f"GET {LOOKS[count % len(LOOKS)]} HTTP/1.1\r\n{self._head}\r\n".encode()
        body = json.dumps({"cartridge": f"TST{number + 3:03}L6", "to": f"slot:{50 + number + count % 80 // 40 * 30}"})
        head = (
            f"POST /v1/move HTTP/1.1\r\n{self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        return f"{head}\r\n{body}".encode()

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        await reader.readexactly(length)
        self.seen.failures += not head.startswith(b"HTTP/1.1 200")


def clients(port: int, token: str, authority: str) -> None:
    """The process of the clients: prints what they met when its standard input ends."""
    asking = Clients(port, token, authority)
    asyncio.run(asking.run())
    times = sorted(asking.seen.milliseconds) or [0.0]
    print(
        json.dumps(
            {
                "requests": len(asking.seen.milliseconds),
                "failures": asking.seen.failures,
                "events": asking.seen.events,
                "median_ms": times[len(times) // 2],
                "worst_ms": times[-1],
                "processor_seconds": time.process_time(),
            }
        )
    )


# ---- the measurement -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def busy(port: int, token: str, authority: str, told: list[dict[str, float]]) -> Iterator[None]:
    """The block has the clients beside it."""
    command = [sys.executable, "-m", "tests.bench.bench_api", "--clients", str(port), token, authority]
    began = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        time.sleep(2.0)  # they connect
        try:
            yield
        finally:
            output, _ = process.communicate()
    told.append({**json.loads(output), "seconds": time.monotonic() - began})


def rate(measured: dict[str, float]) -> float:
    """Bytes a second."""
    return measured["bytes"] / measured["seconds"]


def processor_seconds(process_id: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def compare(folder: Path, rounds: int, blocks: Sequence[tuple[str, int, int, int]], tls: bool) -> None:
    """Measures and prints."""
    program, port = build_load_generator(folder), free_port()
    pair = certificates.make(folder)
    files = f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n' if tls else ""
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n{files}'
    with Appliance.with_loaded_drive(folder, slots=120, cartridges=CONNECTIONS + 3, more=more) as appliance:
        token = appliance.call("token.create", name="bench", scope="operate")["token"]
        drive = Place("tapebay", appliance.url("drive0"))
        for mode, block_bytes, count, depth in blocks:
            alone, beside, told = [], [], list[dict[str, float]]()
            for _ in range(rounds):
                alone.append(rate(measure(program, mode, drive, block_bytes, count, depth)))
                before, began = processor_seconds(appliance.process_id), time.monotonic()
                with busy(port, token, str(pair.authority) if tls else "", told):
                    beside.append(rate(measure(program, mode, drive, block_bytes, count, depth)))
                told[-1]["daemon"] = (processor_seconds(appliance.process_id) - before) / (time.monotonic() - began)
            print(
                f"{mode} {block_bytes >> 10} KiB depth {depth}: alone {max(alone) / 1e6:.0f} MB/s, beside the API "
                f"{max(beside) / 1e6:.0f} MB/s, ratio {max(beside) / max(alone):.2f}"
            )
            for row in told:
                print(_said(row))


def _said(row: dict[str, float]) -> str:
    """What the clients of one round met."""
    seconds = row["seconds"]
    return (
        f"   {row['requests'] / seconds:.0f} requests/s, {row['failures']} failed, median {row['median_ms']:.1f} ms, "
        f"worst {row['worst_ms']:.0f} ms; {row['events']} events; the clients took "
        f"{row['processor_seconds'] / seconds:.2f} processors, the daemon {row['daemon']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs=3, metavar=("PORT", "TOKEN", "AUTHORITY"), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=4000)
    parser.add_argument("--tls", action="store_true", help="the API over TLS")
    given = parser.parse_args()
    if given.clients:
        clients(int(given.clients[0]), *given.clients[1:])
        return
    kinds = [("write", 64 << 10, 1), ("write", 256 << 10, 1), ("write", 256 << 10, 8), ("read", 256 << 10, 8)]
    blocks = [(mode, size, max(1, given.megabytes * 1_000_000 // size), depth) for mode, size, depth in kinds]
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), given.rounds, blocks, given.tls)


if __name__ == "__main__":
    main()
