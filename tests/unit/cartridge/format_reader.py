"""A second reader of the cartridge format, written from FORMAT.md alone: plain Python, another CRC library, no index
and no shortcut. It reads cartridges that were closed."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def crc32c(data: bytes, start: int = 0) -> int:
    value: int = google_crc32c.extend(start, data)
    return value


@dataclass(frozen=True)
class Record:
    kind: int
    form: int
    epoch: int
    object: int
    filemarks: int
    logical_length: int
    logical_crc: int
    extension: bytes
    payload: bytes


def document(path: Path) -> dict:  # type: ignore[type-arg]
    whole = json.loads(path.read_text())
    canonical = json.dumps(whole["content"], sort_keys=True, separators=(",", ":")).encode()
    assert whole["crc32c"] == f"{crc32c(canonical):08x}"
    content: dict = whole["content"]  # type: ignore[type-arg]
    return content


def manifest_entries(data: bytes) -> list[tuple[int, ...]]:
    """Rows of the entries' fields, in the order of FORMAT.md."""
    assert data[:8] == b"TBMANIF\x01"
    (count,) = struct.unpack_from("<I", data, 8)
    assert len(data) == 64 + 64 * count + 4
    assert struct.unpack_from("<I", data, len(data) - 4)[0] == crc32c(data[:-4])
    return [struct.unpack_from("<QQQQQIIIHBBII", data, 64 + 64 * number) for number in range(count)]


def records(data: bytes, seed: int, end: int) -> Iterator[Record]:
    at = 128
    while at < end:
        head = data[at : at + 32]
        header_crc, kind, form, units, epoch, number, marks, logical, stored, crc, logical_crc = struct.unpack(
            "<IBBBBIIIIII", head
        )
        extension = data[at + 32 : at + 32 + units * 8]
        assert header_crc == crc32c(at.to_bytes(8, "little") + head[4:] + extension, seed), at
        payload = data[at + 32 + units * 8 :][:stored]
        assert crc32c(payload) == crc
        yield Record(kind, form, epoch, number, marks, logical, logical_crc, extension, payload)
        length = 32 + units * 8 + stored
        assert not any(data[at + length : at + length + -length % 8])
        at += length + -length % 8
    assert at == end


def content(record: Record, key: bytes | None) -> bytes:
    payload = record.payload
    if record.form & 2:
        assert key is not None
        elements, at = {}, 0
        while at < len(record.extension) and record.extension[at]:
            tag, length = record.extension[at : at + 2]
            elements[tag] = record.extension[at + 2 : at + 2 + length]
            at += 2 + length
        flags = elements.get(4, b"\0")
        associated = bytes([record.form]) + flags + record.logical_length.to_bytes(4, "little") + elements.get(2, b"")
        payload = AESGCM(key).decrypt(elements[1], payload, associated)
    if record.form & 1:
        payload = zstandard.ZstdDecompressor().decompress(payload)
    assert len(payload) == record.logical_length
    assert record.logical_crc == (0 if record.form & 2 else crc32c(payload))
    return payload


def encrypted_run(forms: list[int | None]) -> tuple[int, int]:
    """The manifest's two fields for a segment with blocks of these forms; a filemark is None."""
    blocks = [(number, bool(form & 2)) for number, form in enumerate(forms) if form is not None]
    first = next((at for at, (_, encrypted) in enumerate(blocks) if encrypted), None)
    if first is None:
        return 0xFFFFFFFF, 0
    behind = next((at for at in range(first, len(blocks)) if not blocks[at][1]), len(blocks))
    return blocks[first][0] + 1, blocks[behind - 1][0] + 1


def read_partition(directory: Path, uuid: bytes, number: int, key: bytes | None = None) -> list[bytes | None]:
    """Every logical object; a filemark is None."""
    objects: list[bytes | None] = []
    forms: list[int | None] = []
    previous = 0
    for entry in manifest_entries((directory / "manifest").read_bytes()):
        segment_id, first_object, first_filemark, data_bytes, _, count, marks, seed, _, flags, epoch, *run = entry
        data = (directory / f"{segment_id:08d}.seg").read_bytes()
        header = struct.unpack_from("<8sII16sIIQQQQ", data)
        assert header[:5] == (b"TAPEBAYS", 1, 128, uuid, number)
        assert header[6:] == (segment_id, previous, first_object, first_filemark)
        assert struct.unpack_from("<I", data, 124)[0] == crc32c(data[:124]) == seed
        assert (first_object, first_filemark) == (len(objects), objects.count(None))
        last_epoch = 0
        for record in records(data, seed, data_bytes):
            if record.kind == 3:
                del objects[first_object + record.object :], forms[first_object + record.object :]
                last_epoch += 1
            assert (record.epoch, record.object) == (last_epoch, len(objects) - first_object)
            assert record.filemarks == objects[first_object:].count(None)
            if record.kind in (1, 2):
                objects.append(content(record, key) if record.kind == 1 else None)
                forms.append(record.form if record.kind == 1 else None)
        assert (count, marks) == (len(objects) - first_object, objects[first_object:].count(None))
        if run[0]:  # 0: not known
            assert tuple(run) == encrypted_run(forms[first_object:])
        assert epoch == (last_epoch if flags & 1 else 0)
        if not flags & 1:
            assert data[data_bytes + 4] == 5
        previous = segment_id
    return objects
