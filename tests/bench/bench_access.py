"""What zones cost: a login, a command, a large view, many zones, and a change while 64 sessions are at work.

    python -m tests.bench.bench_access [--sessions 64] [--rounds 20]

Each figure stands beside the same without zones, taken in the same run. The first three tables are in process; a login
is also timed whole, over loopback. The change is made with a verb, as an operator makes it, while every session reads
from a disk of its own as fast as it can (they are a process of their own); it is timed from when the verb was sent,
and from when its transaction began, by the audit record.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from appliance.access.directory import Directory
from appliance.settings.settings import Settings
from datamover.initiator import CommandResult, Credentials, InitiatorError, InitiatorSession
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.task import Nexus, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.t10 import spc
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import read_10
from vlib_images.disk.memory import MemoryImage
from vlib_images.library.database.database import FILE_NAME

IQN = "iqn.2026-11.io.tapebay:library"
PORTAL = Portal("127.0.0.1", 3260)
LUNS_HAVE_CHANGED = (6, 0x3F, 0x0E)


def initiator(number: int) -> str:
    return f"iqn.1993-08.org.debian:host{number:03}"


def who(number: int = 0, account: str | None = None) -> Who:
    return Who(initiator(number), bytes(6), IQN, PORTAL, "192.0.2.1", account)


def settings(devices: int, zones: Sequence[Mapping[str, object]] = (), accounts: int = 0) -> Settings:
    return Settings.model_validate(
        {
            "portals": [{"listen": "127.0.0.1:3260"}],
            "targets": [{"iqn": IQN}],
            "disks": [{"name": f"disk{number}", "size": "1 MiB"} for number in range(devices)],
            "zones": list(zones),
            "chap": {
                "accounts": [
                    {"initiator": initiator(n), "user": f"user{n}", "secret": f"secret of {n:03}"}
                    for n in range(accounts)
                ]
            },
        }
    )


def zone(number: int, initiators: Sequence[str], devices: Sequence[str], *networks: str) -> dict[str, object]:
    """networks: beside that of who logs in."""
    named: dict[str, object] = {"name": f"zone{number}", "initiators": list(initiators), "devices": list(devices)}
    return named | {"networks": ["192.0.2.0/24", *networks]} if networks else named


def each_its_own(count: int, devices: int) -> list[dict[str, object]]:
    """Zones of one initiator and one device each."""
    return [zone(n, [initiator(n)], [f"disk{n % devices}"]) for n in range(count)]


def disks(count: int) -> dict[str, LogicalUnit]:
    return {
        f"disk{number}": BlockDevice(Identity("TAPEBAY", "DISK", "1", f"B{number}"), MemoryImage(1 << 16))
        for number in range(count)
    }


def microseconds(work: Callable[[], object], *, times: int, rounds: int) -> float:
    """The best round's mean."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - begin)
    return best / times * 1e6


# ---- what the directory does at a login ------------------------------------------------------------------------------


def logins(rounds: int) -> None:
    """open(): who it is, and its view. First: nothing is remembered from a login before; the median. Making a large
    directory empties the processor's caches, so before each first login one is made, without zones too."""
    units = disks(64)
    cases = {
        "no zone": (settings(64), None),
        "in one of 500 zones": (settings(64, each_its_own(500, 64)), None),
        "in each of 500 zones": (
            settings(64, [zone(n, [initiator(0)], [f"disk{n % 64}"]) for n in range(500)]), None,
        ),
        "500 initiators in each of 500 zones": (
            settings(64, [zone(n, [initiator(i) for i in range(500)], [f"disk{n % 64}"]) for n in range(500)]), None,
        ),
        "in each of 500 zones, with networks of their own": (
            settings(64, [zone(n, [initiator(0)], [f"disk{n % 64}"], f"10.0.0.{n % 256}/32") for n in range(500)]),
            None,
        ),
        "500 patterns": (settings(64, [zone(n, [f"*:host{n:03}*"], [f"disk{n % 64}"]) for n in range(500)]), None),
        "with an account, one of 500": (
            settings(64, [{"name": "z", "accounts": ["user250"], "devices": ["disk0"]}], accounts=500), "user250",
        ),
    }  # fmt: skip
    largest, _ = cases["500 initiators in each of 500 zones"]
    first: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):  # in turns, so that all of them meet the same machine
        for name, (given, account) in cases.items():
            directory = Directory(given, units)
            Directory(largest, units)
            begin = time.process_time()
            _look(directory, account)
            first[name].append((time.process_time() - begin) * 1e6)
    print("a login's view, µs of processor time                    first   again")
    for name, (given, account) in cases.items():
        work = partial(_look, Directory(given, units), account)
        again = microseconds(work, times=200, rounds=rounds)
        print(f"  {name:<50}{statistics.median(first[name]):8.0f}{again:8.1f}")
    for name in ("no zone", "in each of 500 zones", "500 initiators in each of 500 zones"):
        made = microseconds(lambda: Directory(cases[name][0], units), times=1, rounds=5)  # noqa: B023
        print(f"  a directory made anew, {name}: {made / 1000:.1f} ms")


def _look(directory: Directory, account: str | None) -> None:
    number = 250 if account else 0
    directory.authentication(who(number))
    if account is not None:
        directory.credentials(who(number), account)
    directory.open(who(number, account))


# ---- commands --------------------------------------------------------------------------------------------------------


def commands(rounds: int) -> None:
    """Through the view of a session, without iSCSI."""
    units = disks(64)
    directories = {
        "no zone": Directory(settings(64), units),
        "500 zones": Directory(settings(64, each_its_own(500, 64)), units),
    }
    nexus = Nexus(initiator(0), bytes(6), IQN)
    print("a command through the view, µs of processor time (in turns, best)")
    for label, cdb in (("TEST UNIT READY", bytes(6)), ("READ(10), 512 bytes", read_10(0, 1))):
        padded = cdb.ljust(16, b"\0")
        best = dict.fromkeys(directories, float("inf"))
        for _ in range(rounds):
            for name, directory in directories.items():
                view = directory.open(who())
                view.nexus_established(nexus)
                for unit in view.units():
                    while unit.take_unit_attention(nexus):
                        pass

                run = partial(_good, view, nexus, padded)
                best[name] = min(best[name], microseconds(run, times=2000, rounds=1))
                view.nexus_lost(nexus)
        line = "  ".join(f"{name} {value:.2f}" for name, value in best.items())
        print(f"  {label:<22} {line}  difference {best['500 zones'] - best['no zone']:+.2f}")


def _good(view: View, nexus: Nexus, cdb: bytes) -> None:
    response = view.execute(Task(nexus, 1, cdb, data_in_limit=512, view=view))
    assert response is not None and response.status == 0


# ---- a view of 1,000 LUNs --------------------------------------------------------------------------------------------


def large_view(rounds: int) -> None:
    units = disks(1000)
    names = list(units)
    both = {
        "no zone": settings(1000),
        "a zone": settings(1000, [zone(0, [initiator(0)], names)]),
    }
    print("1,000 logical units, ms of processor time")
    for name, given in both.items():
        directory = Directory(given, units)
        view = directory.open(who())
        assert len(view.logical_units) == 1000
        nexus = Nexus(initiator(0), bytes(6), IQN)
        report = spc.ReportLuns.encode(allocation_length=16384).ljust(16, b"\0")
        opened = microseconds(lambda: directory.open(who()), times=5, rounds=rounds)  # noqa: B023
        told = microseconds(lambda: view.nexus_established(nexus), times=1, rounds=rounds)  # noqa: B023
        listed = microseconds(
            lambda: view.execute(Task(nexus, 1, report, data_in_limit=16384, view=view)),  # noqa: B023
            times=5,
            rounds=rounds,
        )
        other = directory.open(who())
        compared = microseconds(lambda: other.shows_as(view), times=5, rounds=rounds)  # noqa: B023
        figures = {"view": opened, "nexus": told, "REPORT LUNS": listed, "compared": compared}
        print(f"  {name:<8} " + "  ".join(f"{what} {value / 1000:.3f}" for what, value in figures.items()))
    for unit in units.values():
        unit.close()


# ---- over loopback ---------------------------------------------------------------------------------------------------


def sense_of(result: CommandResult) -> tuple[int, int, int] | None:
    return (result.sense[2] & 0x0F, result.sense[12], result.sense[13]) if result.status == 2 else None


class Load(multiprocessing.Process):
    """Sessions that read, with a pause after each command, in a process of their own. For each: how often it met 3F/0E,
    and when last (time.perf_counter, the same clock in every process); commands; its longest one."""

    def __init__(self, portal: str, target_name: str, luns: Sequence[int], pause_seconds: float) -> None:
        super().__init__()
        self.pause_seconds = pause_seconds
        self.portal, self.target_name, self.luns = portal, target_name, luns
        self.told = multiprocessing.Array("i", len(luns), lock=False)
        self.told_at = multiprocessing.Array("d", len(luns), lock=False)
        self.commands = multiprocessing.Array("i", len(luns), lock=False)
        self.longest_seconds = multiprocessing.Array("d", len(luns), lock=False)
        self.working = multiprocessing.Barrier(len(luns) + 1)
        self.stopping = multiprocessing.Event()
        self.surprises: multiprocessing.SimpleQueue[str] = multiprocessing.SimpleQueue()

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(len(self.luns))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number: int) -> None:
        lun = self.luns[number]
        try:
            with InitiatorSession(self.portal, self.target_name, initiator_name=initiator(number)) as session:
                while session.command(lun, bytes(6)).status:  # 29/00 of the login
                    pass
                self.working.wait()
                while not self.stopping.is_set():
                    self._read(number, lun, session)
                    if self.pause_seconds:
                        time.sleep(self.pause_seconds)
        except InitiatorError as error:
            self.surprises.put(f"{number}: {error}")

    def _read(self, number: int, lun: int, session: InitiatorSession) -> None:
        begin = time.perf_counter()
        result = session.command(lun, read_10(0, 8), data_in_length=4096)
        end = time.perf_counter()
        self.commands[number] += 1
        self.longest_seconds[number] = max(self.longest_seconds[number], end - begin)
        if sense_of(result) == LUNS_HAVE_CHANGED:
            self.told_at[number] = end
            self.told[number] += 1
        elif result.status:
            self.surprises.put(f"{number}: status {result.status:02x}h {sense_of(result)}")


def whole_logins(appliance: Appliance, number: int, rounds: int, credentials: Credentials | None = None) -> float:
    """Median milliseconds of a login and a logout."""
    took = []
    for _ in range(rounds):
        begin = time.perf_counter()
        with InitiatorSession(
            appliance.portal, appliance.target_name, initiator_name=initiator(number), credentials=credentials
        ):
            took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1000


def changes(sessions: int, rounds: int, pause_seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        names = [f"disk{number}" for number in range(sessions)]
        more = "[limits]\nsessions = 1000\n"
        with Appliance(
            Path(folder), disks=[Disk(name, "1 MiB") for name in names], cartridges=0, more=more
        ) as appliance:
            before = whole_logins(appliance, 0, rounds)
            for number in range(sessions):
                appliance.call("zone.create", name=f"z{number}", initiators=initiator(number), devices=names[number])
            after = whole_logins(appliance, 0, rounds)
            print(f"a whole login over loopback, ms: no zone {before:.2f}, {sessions} zones {after:.2f}")
            _change_under_load(appliance, names, rounds, pause_seconds)


def _change_under_load(appliance: Appliance, names: Sequence[str], rounds: int, pause_seconds: float) -> None:
    load = Load(appliance.portal, appliance.target_name, [appliance.lun(name) for name in names], pause_seconds)
    load.start()
    everybody = range(len(names))
    try:
        load.working.wait(60)
        begin = time.perf_counter()
        one = [_timed(appliance, load, [0], partial(_give, appliance, 0, on)) for on in _alternately(rounds)]
        all_of_them = [
            _timed(appliance, load, everybody, partial(_lend, appliance, everybody, on)) for on in _alternately(rounds)
        ]
        rate = sum(load.commands) / (time.perf_counter() - begin)
    finally:
        load.stopping.set()
        load.join()
    longest = max(load.longest_seconds) * 1000
    print(
        f"a change of a zone, {len(names)} sessions at work ({rate:.0f} commands/s; the longest took {longest:.0f} ms)"
    )
    for label, took in (("one session is concerned", one), ("all are", all_of_them)):
        verb, sent, kept = ([1000 * each[part] for each in took] for part in range(3))
        print(f"  {label:<26} the verb returns after {statistics.median(verb):.0f} ms; the last session sees it "
              f"{statistics.median(sent):.0f} ms (worst {max(sent):.0f}) after the verb was sent, "
              f"{statistics.median(kept):.0f} ms (worst {max(kept):.0f}) after its transaction began")  # fmt: skip
    surprises = []
    while not load.surprises.empty():
        surprises.append(load.surprises.get())
    print(f"  sessions that met anything else: {surprises or 'none'}")


def _alternately(rounds: int) -> list[bool]:
    return [not number % 2 for number in range(rounds)]


def _give(appliance: Appliance, number: int, on: bool) -> None:
    devices = f"disk{number},drive0" if on else f"disk{number}"
    appliance.call("zone.change", name=f"z{number}", devices=devices)


def _lend(appliance: Appliance, numbers: Sequence[int], on: bool) -> None:
    """A drive for everybody: one zone more or less."""
    if on:
        appliance.call("zone.create", name="drive", initiators=",".join(map(initiator, numbers)), devices="drive1")
    else:
        appliance.call("zone.delete", name="drive")


def _timed(
    appliance: Appliance, load: Load, concerned: Sequence[int], change: Callable[[], None]
) -> tuple[float, float, float]:
    """Seconds until the verb returned, and until the last session that it concerns has seen it: from when it was sent,
    and from when its transaction began."""
    before = list(load.told)
    begin = time.perf_counter()
    change()
    returned = time.perf_counter() - begin
    while any(load.told[n] == before[n] for n in concerned) and time.perf_counter() < begin + 10:
        time.sleep(0.001)
    time.sleep(0.05)  # for whoever might be told without being concerned
    for number, count in enumerate(before):
        if load.told[number] - count != (number in concerned):
            load.surprises.put(f"{number}: told {load.told[number] - count} times")
    seen = max(load.told_at[n] for n in concerned)
    return returned, seen - begin, seen - _kept_at(appliance)


def _kept_at(appliance: Appliance) -> float:
    """When the last change began to be kept, by time.perf_counter()."""
    with closing(sqlite3.connect(appliance.folder / "state" / FILE_NAME)) as database:
        (at,) = database.execute("SELECT max(at_microseconds) FROM events WHERE action LIKE 'zone %'").fetchone()
    return float(at / 1e6 - time.time() + time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds between two commands of a session")
    given = parser.parse_args()
    logins(given.rounds)
    commands(given.rounds)
    large_view(given.rounds)
    changes(given.sessions, given.rounds, given.pause / 1000)


if __name__ == "__main__":
    main()
