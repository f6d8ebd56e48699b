"""What a login with a key costs beside one with a CHAP account, and whether a name that nobody has can be told apart.

    python -m tests.bench.bench_keys [--logins 300]

One server, libiscsi over loopback, both kinds by turns; medians of whole logins (connect to logout) in milliseconds:
first logins, which bind the key, and those of an initiator that comes back. "refused" are wrong secrets, PDU by PDU
without a network, in microseconds.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from appliance.access.directory import Directory
from appliance.access.gate import Gate, GatedDirectory
from appliance.access.keys import Capability, GrantedUnit, Key, WorkingKeys, initiator_hash
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorSession
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.iscsi.server import Server
from tests.unit.appliance.test_gate import World, chap_login
from tests.unit.iscsi.dummy import Memory

TARGET, LEGACY = "iqn.2026-11.io.tapebay:gate", "iqn.2026-11.io.tapebay:legacy"
HOST, SECRET = "iqn.1993-08.org.debian:host", "a secret of 16 b"
SETTINGS = f"""
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "{LEGACY}"
[[chap.accounts]]
user = "backup"
secret = "{SECRET}"
"""


class Bench:
    """A gate and a legacy target in one server, with a disk in memory each."""

    def __init__(self, grants: int) -> None:
        settings = config_file.parse(Path("tapebay.toml"), SETTINGS)
        unit = Memory("M")
        rest = Directory(settings, dict.fromkeys(settings.device_names(), unit))
        keys = WorkingKeys.new()
        gate = Gate(TARGET, rest.all_portals, keys)
        gate.show({1: unit})
        self.keys = [self._key(gate, keys, number) for number in range(grants)]
        self.server = Server(GatedDirectory(rest, gate), rest.all_portals)
        host, port = self.server.start()[0][:2]
        self.portal = f"{host}:{port}"

    def _key(self, gate: Gate, keys: WorkingKeys, number: int) -> Key:
        grant, expires_at_ms = (number + 1).to_bytes(8, "big"), int(time.time() * 1000) + 900_000
        gate.extend(grant, 3600, mounted=True)
        units = (GrantedUnit(1, Permission.ALL),)
        return keys.mint(TARGET, Capability(0, expires_at_ms, grant, initiator_hash(HOST), units))

    def login(self, target: str, user: str, secret: str, number: int) -> None:
        """Each key has an initiator port of its own: the session before may not have been found over yet."""
        InitiatorSession(
            self.portal, target, initiator_name=HOST, credentials=Credentials(user, secret), isid=(1, number)
        ).close()

    def account(self, number: int) -> None:
        self.login(LEGACY, "backup", SECRET, number)

    def first(self, number: int) -> None:
        self.login(TARGET, self.keys[number].name, self.keys[number].secret, number)


def medians(ways: dict[str, Callable[[int], None]], count: int) -> dict[str, float]:
    """Seconds, by turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count):
        for name, way in ways.items():
            begin = time.perf_counter()
            way(number)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=300)
    count = parser.parse_args().logins
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    bench = Bench(count)
    try:
        found = medians({"account": bench.account, "key, first": bench.first, "key, again": bench.first}, count)
    finally:
        bench.server.stop()
    for name, seconds in found.items():
        print(f"login, {name:12} {seconds * 1e3:8.2f} ms   {(seconds - found['account']) * 1e3:+7.2f} ms")
    world = World()
    world.lend(seconds=3600)
    known = world.key().name
    names = {"known": known, "unknown, alike": "ak1." + "A" * (len(known) - 4), "unknown, account": "backup"}
    refused = medians(
        {name: lambda _number, shown=shown: chap_login(world, shown, "guess") for name, shown in names.items()},  # type: ignore[misc]
        10 * count,
    )
    for name, seconds in refused.items():
        print(f"refused, {name:16} {seconds * 1e6:8.1f} µs   {(seconds / refused['known'] - 1) * 100:+6.2f} %")


if __name__ == "__main__":
    main()
