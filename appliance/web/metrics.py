"""GET /metrics: the counters that the library and the engine keep anyway, for Prometheus. docs/api.md lists the names.

Nothing is counted for it on the way of the data: a scrape looks at plain numbers, at most every CACHE_SECONDS.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance import __version__
from appliance.library.library import Library
from appliance.library.pools import counts_of
from scsi_targets.devices.changer.statistics import MOVES, UNRECOVERED_ERRORS
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.tape.usage import Amounts
from vlib_images.library.database import events
from vlib_images.library.elements import ElementType

CACHE_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 0.5  # a drive whose lock is held for longer is left out of this scrape


class LibraryCollector(Collector):
    """The metrics of a library that is served."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        info = GaugeMetricFamily("tapebay_info", "Which Tapebay this is; always 1.", labels=["version", "library"])
        info.add_metric([__version__, self._library.settings.library.name], 1)
        yield info
        for part in (
            self._drives,
            self._disks,
            self._snapshots,
            self._changers,
            self._elements,
            self._pools,
            self._targets,
            self._engine,
            self._copies,
            self._broker,
            self._storage,
            self._audit,
        ):
            yield from part()

    def _drives(self) -> Iterator[Metric]:
        loaded = _gauge("tapebay_drive_loaded", "Whether a cartridge is in the drive.", "drive")
        moved = _counter(
            "tapebay_drive_bytes", "Between initiators and medium, as initiators see it.", "drive", "direction"
        )
        stored = _counter("tapebay_drive_stored_bytes", "The same as it lies on the medium.", "drive", "direction")
        loads = _counter("tapebay_drive_loads", "Over the drive's life.", "drive")
        errors = _counter("tapebay_drive_errors", "Hard errors over the drive's life.", "drive", "direction")
        for name, drive in self._library.drives.items():
            loaded.add_metric([name], drive.medium is not None)
            loads.add_metric([name], drive.usage.life.loads)
            errors.add_metric([name, "read"], drive.usage.life.hard_read_errors)
            errors.add_metric([name, "write"], drive.usage.life.hard_write_errors)
            if (amounts := _amounts(drive)) is not None:
                moved.add_metric([name, "read"], amounts.read)
                moved.add_metric([name, "write"], amounts.written)
                stored.add_metric([name, "read"], amounts.fetched)
                stored.add_metric([name, "write"], amounts.stored)
        yield from (loaded, moved, stored, loads, errors)

    def _disks(self) -> Iterator[Metric]:
        served = _gauge("tapebay_disk_served", "Whether initiators can use the disk.", "disk")
        moved = _counter("tapebay_disk_bytes", "READ and WRITE commands of the disk.", "disk", "direction")
        commands = _counter("tapebay_disk_commands", "READ and WRITE commands of the disk.", "disk", "direction")
        seconds = _counter("tapebay_disk_seconds", "Time that they took.", "disk", "direction")
        for name, disk in self._library.disks().items():
            served.add_metric([name], disk.unavailable is None)
            traffic = disk.traffic
            for direction, length, count, took in (
                ("read", traffic.read_bytes, traffic.read_commands, traffic.read_nanoseconds),
                ("write", traffic.written_bytes, traffic.write_commands, traffic.write_nanoseconds),
            ):
                moved.add_metric([name, direction], length)
                commands.add_metric([name, direction], count)
                seconds.add_metric([name, direction], took / 1e9)
        yield from (served, moved, commands, seconds)

    def _snapshots(self) -> Iterator[Metric]:
        stored = _gauge("tapebay_snapshot_stored_bytes", "What the snapshot has in its store.", "snapshot", "disks")
        budget = _gauge("tapebay_snapshot_budget_bytes", "What it may have there.", "snapshot", "disks")
        age = _gauge("tapebay_snapshot_age_seconds", "Since it was made.", "snapshot", "disks")
        for kept in self._library.snapshots.all():
            if not kept.state.over:
                names = [kept.name, ",".join(kept.disks)]
                stored.add_metric(names, kept.stored_bytes)
                budget.add_metric(names, kept.budget_bytes)
                age.add_metric(names, kept.age_seconds)
        yield from (stored, budget, age)

    def _changers(self) -> Iterator[Metric]:
        moves = _counter("tapebay_changer_moves", "Moves that were asked of the media changer.", "changer")
        errors = _counter(
            "tapebay_changer_errors", "Moves that ended in a drive that did not let go or load.", "changer"
        )
        for name, changer in self._library.changers.items():
            counts = changer.statistics.counts()
            moves.add_metric([name], counts[MOVES])
            errors.add_metric([name], counts[UNRECOVERED_ERRORS])
        yield from (moves, errors)

    def _elements(self) -> Iterator[Metric]:
        inventory = self._library.files.inventory
        there, full = Counter[str](), Counter[str]()
        for element in inventory.elements():
            kind = element.type.name.lower()
            there[kind] += 1
            full[kind] += element.barcode is not None
        elements = _gauge("tapebay_elements", "Elements of the library.", "type")
        occupied = _gauge("tapebay_elements_full", "Elements that hold a cartridge.", "type")
        for kind in (one.name.lower() for one in ElementType):
            elements.add_metric([kind], there[kind])
            occupied.add_metric([kind], full[kind])
        shelf = GaugeMetricFamily("tapebay_cartridges_on_shelf", "Cartridges outside the library.")
        yield from (elements, occupied, _one(shelf, len(inventory.shelf())))

    def _pools(self) -> Iterator[Metric]:
        holds = _gauge("tapebay_pool_cartridges", "Cartridges of the pool, those on the shelf too.", "pool")
        blank = _gauge("tapebay_pool_blank_cartridges", "Of them those that requests may have as blank ones.", "pool")
        names = [pool.name for pool in self._library.settings.pools]
        for name, counts in counts_of(self._library.files, names, 0.0).items():
            holds.add_metric([name], counts.holds)
            if counts.blank is not None:
                blank.add_metric([name], counts.blank)
        yield from (holds, blank)

    def _targets(self) -> Iterator[Metric]:
        standing = Counter(record.target_name or "" for record in self._library.server.sessions())
        now = _gauge("tapebay_sessions", 'Sessions with the target now; "" discovers.', "target")
        begun = _counter("tapebay_sessions_begun", "Sessions with the target since the start.", "target")
        commands = _counter("tapebay_target_commands", "SCSI commands of the target's sessions.", "target")
        moved = _counter(
            "tapebay_target_bytes", "On the target's connections, headers included.", "target", "direction"
        )
        for name, totals in self._library.server.totals().items():
            now.add_metric([name], standing[name])
            begun.add_metric([name], totals.sessions)
            commands.add_metric([name], totals.commands)
            moved.add_metric([name, "in"], totals.bytes_in)
            moved.add_metric([name, "out"], totals.bytes_out)
        yield from (now, begun, commands, moved)

    def _engine(self) -> Iterator[Metric]:
        pool = self._library.server.pool
        used = GaugeMetricFamily("tapebay_buffer_bytes_in_use", "Memory of the payload of all commands.")
        yield _one(used, pool.in_use_bytes)
        yield _one(GaugeMetricFamily("tapebay_buffer_bytes_limit", "The most that it may be."), pool.capacity_bytes)

    def _copies(self) -> Iterator[Metric]:
        records = [record for unit in self._library.units.values() for record in _records(unit)]
        running = [record for record in records if record.status is None]
        begun = CounterMetricFamily("tapebay_copies_begun", "EXTENDED COPY commands since the start.")
        yield _one(begun, max((record.number for record in records), default=0))
        yield _one(GaugeMetricFamily("tapebay_copies_running", "Copies that wait or run now."), len(running))

    def _broker(self) -> Iterator[Metric]:
        broker = self._library.broker
        if broker is None:
            return
        from appliance.broker.states import RequestState

        yield _one(GaugeMetricFamily("tapebay_broker_up", "Whether requests for drives are served."), broker.up)
        failed = CounterMetricFamily("tapebay_broker_failures", "How often the broker ended unasked since the start.")
        yield _one(failed, broker.failures)
        made = broker.requests.all()
        states = Counter(request.state for request in made)
        requests = _gauge("tapebay_requests", "Requests for drives, by state.", "state")
        for state in RequestState:
            requests.add_metric([state.value], states[state])
        waiting = [request.created_at_ms for request in made if request.state is RequestState.QUEUED]
        oldest = GaugeMetricFamily("tapebay_requests_longest_wait_seconds", "How long the oldest queued one waits.")
        yield from (requests, _one(oldest, max(0.0, time.time() - min(waiting) / 1000) if waiting else 0))

    def _storage(self) -> Iterator[Metric]:
        paths = self._library.settings.library
        free = _gauge("tapebay_storage_free_bytes", "Free on the file system.", "holds")
        total = _gauge("tapebay_storage_bytes", "Size of the file system.", "holds")
        for name, path in (("state", paths.state), ("cartridges", paths.cartridges), ("disks", paths.disks)):
            if path.exists():
                usage = shutil.disk_usage(path)
                free.add_metric([name], usage.free)
                total.add_metric([name], usage.total)
        yield from (free, total)

    def _audit(self) -> Iterator[Metric]:
        database = self._library.files.database
        failed = GaugeMetricFamily("tapebay_database_closed", "Whether changes are refused after one that failed.")
        yield _one(failed, database.failure is not None)
        recorded = CounterMetricFamily("tapebay_audit_events", "Events of the audit record, pruned ones included.")
        with database.read() as connection:
            yield _one(recorded, events.newest_number(connection))


class Exposition:
    """What a scrape gets; several at once get the same."""

    def __init__(self, library: Callable[[], Library]) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._registry: CollectorRegistry | None = None
        self._made_at = float("-inf")
        self._content = b""

    def content(self) -> bytes:
        """In Prometheus' text format. Raises StateDamaged, OSError."""
        with self._lock:
            if time.monotonic() - self._made_at >= CACHE_SECONDS:
                if self._registry is None:
                    self._registry = CollectorRegistry()
                    self._registry.register(LibraryCollector(self._library()))
                    ProcessCollector(registry=self._registry)
                self._content = generate_latest(self._registry)
                self._made_at = time.monotonic()
            return self._content


def _amounts(drive: TapeDrive) -> Amounts | None:
    """None: the drive is busy with itself."""
    if not drive.lock.acquire(timeout=LOCK_SECONDS):
        return None
    try:
        return drive.usage.totals()
    finally:
        drive.lock.release()


def _records(unit: Any) -> list[Any]:
    manager = getattr(unit, "copy_manager", None)
    return [] if manager is None else manager.recent()


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=labels)


def _one(family: Any, value: float) -> Any:
    family.add_metric([], value)
    return family
