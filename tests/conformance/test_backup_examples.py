"""The examples of docs/backup-developers.md, run as they stand there, and the stream that they are made of."""

import io
import re
import tarfile
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession
from scsi_targets.client import tape_stream
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import Tape
from scsi_targets.client.tape_stream import StreamFailed, TapeStream
from scsi_targets.iscsi.directory import Portal
from scsi_targets.iscsi.server import Server
from scsi_targets.t10.sense import SenseCode
from tests.support import packages
from tests.support.waiting import eventually
from tests.unit.devices.copying.support import BLOCKS, Site, content
from tests.unit.devices.support import TARGET
from tests.unit.iscsi.support import Directory

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/backup-developers.md"
DISK, DRIVE = 0, 1


@pytest.fixture
def site(tmp_path):
    packages.require("libiscsi7")
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def portal(site):
    portals = [Portal("127.0.0.1", 0, 1)]
    server = Server(Directory({TARGET: dict(site.view.logical_units)}, portals), portals)
    ((host, port),) = server.start()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def session(portal):
    with InitiatorSession(portal, TARGET) as session:
        yield session


def example(number, portal, **names):
    """Runs the example with that number, the imports of all of them before it."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    imports = "\n".join(line for block in blocks for line in block.splitlines() if re.match("from |import ", line))
    space = {"PORTAL": portal, "TARGET": TARGET, "DISK": DISK, "DRIVE": DRIVE, "BLOCK": 256 << 10, **names}
    exec(imports + "\n" + blocks[number], space)
    return space


def test_a_disk_to_a_tape_and_back(site, portal):
    example(0, portal)
    assert b"".join(block for block in site.written() if block) == site.disk_data
    assert site.written()[-1] is None
    image = bytearray(BLOCKS * 512)
    site.disk.medium.read_into(image, 0)
    assert image == site.disk_data


def test_a_tar_archive(site, portal):
    files = {
        "one": [(0, 512)],
        "scattered": [(70_001, 3), (4096, 8192), (512, 1)],
        "empty": [],
        "large": [(100_000, 900_001)],
    }
    example(1, portal, FILES=files)
    blocks = site.written()
    assert blocks[-1] is None
    assert {len(block) for block in blocks[:-1]} == {256 << 10}
    with tarfile.open(fileobj=io.BytesIO(b"".join(blocks[:-1]))) as archive:
        assert archive.getnames() == list(files)
        for name, extents in files.items():
            found = archive.extractfile(name).read()
            assert found == b"".join(site.disk_data[at : at + length] for at, length in extents), name


def test_checkpoints(site, portal, monkeypatch):
    chunks = [(n * 300_000, 300_000) for n in range(6)]
    failures, write_blocks, writes = [], site.tape.write_blocks, []

    def fails_once(*args, **more):
        writes.append(args)
        if len(writes) == 4:
            raise OSError(5, "Input/output error")
        return write_blocks(*args, **more)

    monkeypatch.setattr(site.tape, "write_blocks", fails_once)
    example(2, portal, CHUNKS=chunks, report=failures.append)
    assert len(failures) == 1
    assert failures[0].failed.sense.code == SenseCode(0xA, 0x0D, 0x01)
    padded = 2 * (256 << 10)
    stream = b"".join(site.written())
    assert len(stream) == 6 * padded
    for number, (offset, length) in enumerate(chunks):
        assert stream[number * padded :][:length] == site.disk_data[offset : offset + length]


def test_a_stream_of_many_commands_is_one_stream(site, session, monkeypatch):
    """Each command ends on a whole block, whatever the pieces are."""
    monkeypatch.setattr(tape_stream, "COMMAND_BYTES", 100_000)
    manager, disk, tape = CopyingUnit(session, DISK), Disk(session, DISK), Tape(session, DRIVE)
    reports = []
    stream = TapeStream(manager, tape, [disk], block_length=30_000, sent=lambda sent: reports.append(sent.whole_bytes))
    stream._most_segments = 7
    expected = b""
    for number in range(40):
        data, offset, length = content(number * 37, seed=number), number * 1001, number * 3333
        stream.add_data(data)
        stream.add_extent(0, offset, length)
        expected += data + site.disk_data[offset : offset + length]
    stream.end()
    written = site.written()
    assert {len(block) for block in written} == {30_000}
    assert b"".join(written) == expected.ljust(len(written) * 30_000, b"\0")
    assert len(reports) > 20
    assert all(report % 30_000 == 0 for report in reports)
    assert reports[-1] == stream.whole_bytes == len(written) * 30_000


def test_which_piece_failed(site, session):
    disk, tape = Disk(session, DISK), Tape(session, DRIVE)
    stream = TapeStream(CopyingUnit(session, DISK), tape, [disk], block_length=512)
    for offset in (0, 512, BLOCKS * 512):
        stream.add_data(bytes(512))
        stream.add_extent(0, offset, 512)
    with pytest.raises(StreamFailed) as failed:
        stream.end()
    assert (failed.value.piece, failed.value.whole_bytes) == (5, 0)


def test_a_command_copies_while_the_next_is_gathered(site, session):
    """Over the network, too: it is under way when start() returns, and nobody has to wait for it."""
    stream = TapeStream(
        CopyingUnit(session, DISK), Tape(session, DRIVE), [Disk(session, DISK)], block_length=4096, command_bytes=65536
    )
    stream.add_extent(0, 0, 65536)
    stream.add_data(b"begins the next")
    eventually(lambda: [record.status for record in site.disk.copy_manager.recent()] == [0])
    assert stream.whole_bytes == 0
    stream.end()
    assert stream.whole_bytes == 65536 + 4096
