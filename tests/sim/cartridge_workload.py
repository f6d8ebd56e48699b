"""Random operations on a cartridge, told to a journal so that a checker knows what may be found after a crash.

The journal is a list of events; each is a dict with "event": "begin" (an operation, with everything that repeats it)
or "promise" (a synchronize has returned). Contents follow from a serial number, so the journal stays small.
"""

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey
from vlib_images.cartridge.encrypted_blocks import EncryptedBlocks
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import EndOfPartition

Event = dict[str, Any]
State = tuple[bytes | None, ...]

KEY = bytes(range(32))
LENGTHS = (1, 60, 500, 512, 2000, 4096, 70_000)


def block(serial: int, length: int) -> bytes:
    """The content of a block: no two serials give the same; every third compresses."""
    rng = random.Random(serial)
    return rng.randbytes(length) if serial % 3 else (rng.randbytes(50) * (length // 50 + 1))[:length]


def encoder(form: int) -> Encoder | None:
    """Plain, compressed, encrypted, both."""
    encryption = Encryption(EncryptionKey(KEY), b"a-kad") if form & 2 else None
    return Encoder(1 if form & 1 else None, encryption) if form else None


@dataclass
class Plan:
    """How a run is made: everything follows from the seed."""

    seed: int
    partitions: int
    limits: SegmentLimits
    worm: bool

    @classmethod
    def draw(cls, seed: int) -> "Plan":
        rng = random.Random(seed)
        limits = SegmentLimits(rng.choice([2048, 8192, 65536, 1 << 20]), rng.choice([4, 64, 1 << 20]))
        return cls(seed, rng.choice([1, 1, 2, 3]), limits, rng.random() < 0.15)


def draw_operation(rng: random.Random, serial: int, partitions: int) -> Event:
    """One operation with its parameters; `place` is a fraction of the partition to go to before overwriting."""
    kind = rng.choices(
        ["blocks", "fixed", "filemarks", "sync", "overwrite", "erase", "partition", "format"],
        [40, 10, 12, 14, 14, 4, 8, 2],
    )[0]
    return {
        "event": "begin",
        "kind": kind,
        "serial": serial,
        "count": rng.randint(1, 12),
        "length": rng.choice(LENGTHS),
        "place": rng.choice([0.0, rng.random(), 1 - rng.random() / 10]),
        "partition": rng.randrange(partitions),
        "partitions": rng.randint(1, 4),
        "long": rng.random() < 0.3,
        "form": rng.choice([0, 0, 1, 2, 3]),
    }


def perform(cartridge: Cartridge, operation: Event, tell: Callable[[Event], None]) -> None:
    """Do one operation, telling the journal before and after."""
    cartridge.encoder = encoder(operation["form"])
    partition, _ = cartridge.position
    end = cartridge.end_of_data(partition)
    kind, count = operation["kind"], operation["count"]
    if kind == "format":
        _format(cartridge, operation, tell)
        return
    if kind in ("overwrite", "erase"):
        position = int(operation["place"] * (end + 1))
        if cartridge.worm:
            position = end
        operation = {**operation, "position": position}
        cartridge.locate_block(partition, position)
    elif kind == "partition":
        cartridge.locate_block(operation["partition"], cartridge.end_of_data(operation["partition"]))
        return
    else:
        cartridge.space_end_of_data()
        operation = {**operation, "position": end}
    tell({**operation, "in": partition})
    with contextlib.suppress(EndOfPartition):  # the oracle allows any shorter state
        _execute(cartridge, operation, kind, count)
    if kind == "sync":
        tell({"event": "promise", "in": None})
    elif kind == "erase":
        tell({"event": "promise", "in": partition})


def _format(cartridge: Cartridge, operation: Event, tell: Callable[[Event], None]) -> None:
    if not cartridge.worm:
        tell(operation)
        cartridge.format([cartridge.capacity_bytes // operation["partitions"]] * operation["partitions"])
        tell({**operation, "event": "formatted"})


def _execute(cartridge: Cartridge, operation: Event, kind: str, count: int) -> None:
    if kind in ("blocks", "overwrite"):
        for number in range(count):
            cartridge.write_block(block(operation["serial"] + number, operation["length"]))
    elif kind == "fixed":
        data = b"".join(block(operation["serial"] + number, 512) for number in range(count))
        cartridge.write_blocks(data, 512)
    elif kind == "filemarks":
        cartridge.write_filemarks(count)
    elif kind == "erase":
        cartridge.erase(operation["long"])
    else:
        cartridge.synchronize()


class Oracle:
    """Follows a journal. allowed(partition): every state that a crash may leave, the promised one and all since."""

    def __init__(self, partitions: int) -> None:
        self.states: list[list[State]] = [[()] for _ in range(partitions)]
        self.formatting: int | None = None  # a format to so many partitions has begun and may have happened

    def follow(self, event: Event) -> None:
        if event["event"] == "promise":
            self.promise(event["in"])
        if event["event"] == "formatted":
            self.formatted(event["partitions"])
        if event["event"] != "begin" or event["kind"] == "sync":
            return
        if event["kind"] == "format":
            self.formatting = event["partitions"]
            for history in self.states:
                history.append(())
            return
        history = self.states[event["in"]]
        state = history[-1][: event["position"]]
        if len(state) < len(history[-1]):
            history.append(state)
        for added in self._added(event):
            state = (*state, added)
            history.append(state)

    @staticmethod
    def _added(event: Event) -> list[bytes | None]:
        serial, count = event["serial"], event["count"]
        match event["kind"]:
            case "blocks" | "overwrite":
                return [block(serial + number, event["length"]) for number in range(count)]
            case "fixed":
                return [block(serial + number, 512) for number in range(count)]
            case "filemarks":
                return [None] * count
        return []

    def promise(self, partition: int | None = None) -> None:
        """A synchronize has returned: only the present state may be found (in one partition, or all)."""
        for number, history in enumerate(self.states):
            if partition in (None, number):
                del history[:-1]

    def formatted(self, partitions: int) -> None:
        """The medium has so many partitions now, and all are empty."""
        self.states = [[()] for _ in range(partitions)]
        self.formatting = None

    def check(self, found: list[State]) -> None:
        """Raises AssertionError unless every partition is in an allowed state; that state becomes the present one."""
        if self.formatting == len(found) and not any(found):
            self.formatted(len(found))
        self.formatting = None
        assert len(found) == len(self.states), f"{len(found)} partitions, not {len(self.states)}"
        for number, state in enumerate(found):
            history = self.states[number]
            assert state in history, describe(number, state, history)
            self.states[number] = [state]

    def check_latest(self, number: int, state: State) -> None:
        """Nothing crashed: exactly the last state."""
        assert state == self.states[number][-1], describe(number, state, self.states[number][-1:])


def describe(number: int, state: State, history: list[State]) -> str:
    def short(value: State) -> str:
        return ",".join("FM" if item is None else f"{item[:2].hex()}:{len(item)}" for item in value)

    nearest = max(history, key=lambda known: sum(a == b for a, b in zip(known, state, strict=False)))
    return (
        f"partition {number}: {len(state)} objects, allowed {min(map(len, history))}..{max(map(len, history))}\n"
        f"found   {short(state)}\nnearest {short(nearest)}"
    )


def read_all(cartridge: Cartridge) -> list[State]:
    """Every object of every partition; raises what reading raises. The cartridge must know where it is encrypted."""
    cartridge.decryption = Decryption(DecryptionMode.MIXED, EncryptionKey(KEY))
    into = bytearray(1 << 17)
    found: list[State] = []
    for number in range(cartridge.partition_count):
        cartridge.locate_block(number, 0)
        objects: list[bytes | None] = []
        encrypted: list[bool | None] = []
        for _ in range(cartridge.end_of_data(number)):
            status = cartridge.next_block_status()
            encrypted.append(None if status is None else status.encrypted)
            result = cartridge.read_block(into)
            objects.append(bytes(into[: result.length]) if result.kind.name == "BLOCK" else None)
        found.append(tuple(objects))
        assert cartridge.encrypted_blocks(number) == where_encrypted(encrypted), encrypted
    return found


def where_encrypted(objects: list[bool | None]) -> EncryptedBlocks:
    """From what each object is; a filemark is None."""
    if True not in objects:
        return EncryptedBlocks(None, None)
    first = objects.index(True)
    return EncryptedBlocks(first, objects.index(False, first) if False in objects[first:] else None)
