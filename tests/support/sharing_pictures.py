"""The pictures of docs/sharing: each is drawn from its tapebay.toml, so that it shows what the file says.

    python -m tests.support.sharing_pictures

writes them anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from appliance.settings import config_file
from appliance.settings.sections import PartitionSettings
from appliance.settings.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "sharing"
COLOURS = ("#3a7ca5", "#b23a48", "#2f7d4f", "#d98e04", "#6d597a", "#44546a")
WIDTH, LEFT, SERVER_WIDTH, LIBRARY, BOX_WIDTH, BOX_HEIGHT, GAP = 760, 20, 150, 400, 150, 30, 12
# What a picture shows beside what the file says: who has reserved which device just now.
RESERVED: Mapping[str, Mapping[str, str]] = {
    "reserved-device": {"drive0": "reserved by first"},
    "two-platforms": {"unix": "reserved by unix-1", "windows-drive": "reserved by windows-2"},
}


@dataclass(frozen=True, slots=True)
class Box:
    """A device, and where it is drawn."""

    name: str
    text: str
    x: int
    y: int


def picture(name: str, settings: Settings) -> str:
    """An SVG document: servers on the left, the library on the right, a colour for each zone."""
    frames, boxes, height = _library(settings)
    servers = _servers(settings, height)
    height = max(height, *(y + BOX_HEIGHT + GAP for y in servers.values()))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *frames,
        *_zones(settings, servers, boxes),
        *(line for server, y in servers.items() for line in _box(Box(server, server, LEFT, y), "#eef2f5")),
        *(line for box in boxes for line in _box(box, "#fdf6e3")),
        *_reserved(RESERVED.get(name, {}), boxes),
    ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _servers(settings: Settings, height: int) -> dict[str, int]:
    """Who is in a zone, from the top down."""
    names = list(dict.fromkeys(who for zone in settings.zones for who in (*zone.accounts, *zone.initiators)))
    step = max(BOX_HEIGHT + GAP, (height - 70) // max(1, len(names)))
    return {name.rpartition(":")[2]: 60 + step * number for number, name in enumerate(names)}


def _library(settings: Settings) -> tuple[list[str], list[Box], int]:
    """Frames of the partitions (or of the whole library) and of the disks, with the boxes of the devices in them."""
    frames: list[str] = []
    boxes: list[Box] = []
    y = 50
    for title, names in _parts(settings):
        height = 30 + len(names) * (BOX_HEIGHT + GAP)
        frames.append(
            f'<rect x="{LIBRARY - 15}" y="{y}" width="{WIDTH - LIBRARY}" height="{height}" rx="8" fill="none" '
            'stroke="#888" stroke-dasharray="4 3"/>'
        )
        frames.append(f'<text x="{LIBRARY - 5}" y="{y + 18}" fill="#444">{escape(title)}</text>')
        for number, (name, text) in enumerate(names):
            boxes.append(Box(name, text, LIBRARY + 5, y + 28 + number * (BOX_HEIGHT + GAP)))
        y += height + GAP
    return frames, boxes, y


def _parts(settings: Settings) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    changer = settings.changer
    for partition in settings.partitions:
        yield _partition(settings, partition)
    if not settings.partitions:
        drives = [(drive.name, drive.name) for drive in settings.drives]
        yield f"library: {changer.model}, {changer.slots} slots", [("changer", "robot: changer"), *drives]
    if settings.disks:
        yield "disks", [(disk.name, disk.name) for disk in settings.disks]


def _partition(settings: Settings, partition: PartitionSettings) -> tuple[str, list[tuple[str, str]]]:
    model = partition.model or settings.changer.model
    title = f"partition {partition.name}: {model}, slots {partition.slots}, barcodes {partition.barcodes}"
    return title, [(partition.name, f"robot: {partition.name}"), *((name, name) for name in partition.drives)]


def _zones(settings: Settings, servers: Mapping[str, int], boxes: Sequence[Box]) -> Iterator[str]:
    """A line from each member of a zone to each of its devices, in the zone's colour."""
    at = LEFT
    for zone, colour in zip(settings.zones, COLOURS, strict=False):
        yield f'<rect x="{at}" y="14" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{at + 17}" y="24">zone {escape(zone.name)}</text>'
        at += 70 + 7 * len(zone.name)
        for who in (*zone.accounts, *zone.initiators):
            start = servers[who.rpartition(":")[2]] + BOX_HEIGHT // 2
            for box in (box for box in boxes if box.name in zone.device_names()):
                yield _line(start, box, colour)


def _line(start: int, box: Box, colour: str) -> str:
    left, end = LEFT + SERVER_WIDTH, box.y + BOX_HEIGHT // 2
    middle = (left + box.x) // 2
    return (
        f'<path d="M {left} {start} C {middle} {start} {middle} {end} {box.x} {end}" fill="none" stroke="{colour}" '
        'stroke-width="1.6" opacity="0.8"/>'
    )


def _box(box: Box, fill: str) -> Iterator[str]:
    width = SERVER_WIDTH if box.x == LEFT else BOX_WIDTH
    yield (f'<rect x="{box.x}" y="{box.y}" width="{width}" height="{BOX_HEIGHT}" rx="5" fill="{fill}" stroke="#444"/>')
    yield f'<text x="{box.x + width // 2}" y="{box.y + 19}" text-anchor="middle">{escape(box.text)}</text>'


def _reserved(reserved: Mapping[str, str], boxes: Sequence[Box]) -> Iterator[str]:
    for box in boxes:
        if box.name in reserved:
            yield (
                f'<rect x="{box.x - 3}" y="{box.y - 3}" width="{BOX_WIDTH + 6}" height="{BOX_HEIGHT + 6}" rx="7" '
                'fill="none" stroke="#c00" stroke-width="2"/>'
            )
            yield f'<text x="{box.x + BOX_WIDTH + 10}" y="{box.y + 19}" fill="#c00">{escape(reserved[box.name])}</text>'


def main() -> None:
    """Draw them all."""
    for path in sorted(FOLDER.glob("*.toml")):
        path.with_suffix(".svg").write_text(picture(path.stem, config_file.load(path)))


if __name__ == "__main__":
    main()
