"""Import from and export to other image formats through qemu-img."""

import json
import os
import subprocess

import pytest

from tests.support import packages
from vlib_images.disk import convert as disk_convert
from vlib_images.disk.memory import MemoryImage
from vlib_images.disk.raw import DiskImage, DiskInUse
from vlib_images.disk.snapshot import SnapshotEnded

SIZE = 4 << 20


@pytest.fixture(scope="module", autouse=True)
def _qemu_img():
    packages.require("qemu-utils")


@pytest.fixture
def raw(tmp_path):
    """A raw image with data at its beginning and end, and its content."""
    path = tmp_path / "raw.img"
    image = DiskImage.create(path, SIZE)
    image.write(os.urandom(70_000), 0)
    image.write(os.urandom(512), SIZE - 512)
    image.close()
    return path


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vhdx", "vdi", "raw"])
def test_export_and_import_give_the_same_bytes(raw, tmp_path, image_format):
    told = []
    exported = tmp_path / f"disk.{image_format}"
    disk_convert.export_image(raw, exported, image_format, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    information = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", exported]))
    assert information["format"] == image_format
    again = tmp_path / "again.img"
    assert disk_convert.import_image(exported, again) == SIZE
    assert again.read_bytes() == raw.read_bytes()
    assert again.stat().st_blocks * 512 < SIZE // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([raw.name, exported.name, again.name])
    DiskImage.open(again).close()


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "raw"])
def test_an_image_that_is_no_file_is_exported(tmp_path, image_format):
    """As a snapshot is: what holds nothing is passed over, and it is read once, before qemu-img begins."""
    image = MemoryImage(SIZE)
    image.write(content := os.urandom(1_500_000), 4096)
    image.write(b"end", SIZE - 3)
    told, exported, over = [], tmp_path / f"disk.{image_format}", []
    disk_convert.export_instant(image, exported, image_format, progress=told.append, read=lambda: over.append(told[-1]))
    assert over == [1.0 if image_format == "raw" else 0.5]
    assert told == sorted(told) and told[-1] == 1.0
    again = tmp_path / "again.img"
    assert disk_convert.import_image(exported, again) == SIZE
    end = bytes(SIZE - 4096 - len(content) - 3)
    assert again.read_bytes() == bytes(4096) + content + end + b"end"
    if image_format == "raw":
        assert exported.stat().st_blocks * 512 < SIZE // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([exported.name, again.name])


def test_an_instant_that_ends_while_it_is_read_leaves_nothing_behind(tmp_path):
    class Ending(MemoryImage):
        def read_into(self, buffer, offset):
            if offset:
                raise SnapshotEnded("the snapshot is broken: it would have been full")
            super().read_into(buffer, offset)

    image = Ending(SIZE)
    image.write(bytes(b"x" * SIZE), 0)
    with pytest.raises(SnapshotEnded):
        disk_convert.export_instant(image, tmp_path / "out.raw", "raw")
    (tmp_path / "there.raw").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        disk_convert.export_instant(MemoryImage(SIZE), tmp_path / "there.raw", "raw")
    assert [path.name for path in tmp_path.iterdir()] == ["there.raw"]
    with pytest.raises(ValueError, match="is none of"):
        disk_convert.export_instant(image, tmp_path / "out", "zip")


def test_an_image_that_is_served_is_not_exported(raw, tmp_path):
    image = DiskImage.open(raw)
    with pytest.raises(DiskInUse):
        disk_convert.export_image(raw, tmp_path / "a.qcow2", "qcow2")
    image.close()


def test_an_image_that_names_other_files_is_refused(raw, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 65536)
    for options in (["-b", str(secret), "-F", "raw"], ["-o", f"data_file={tmp_path.parent / 'data'}"]):
        trap = tmp_path / "trap.qcow2"
        trap.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, trap, "64K"], check=True)
        with pytest.raises(disk_convert.ConversionFailed, match="takes content from"):
            disk_convert.import_image(trap, tmp_path / "out.img")
        assert not (tmp_path / "out.img").exists()


def test_failures_leave_nothing_behind(raw, tmp_path, monkeypatch):
    damaged = tmp_path / "damaged.qcow2"
    damaged.write_bytes(b"QFI\xfb" + bytes(3) + b"\x03" + b"\xff" * 200)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(disk_convert.ConversionFailed, match="qemu-img"):
        disk_convert.import_image(damaged, tmp_path / "out.img")
    with pytest.raises(FileNotFoundError):
        disk_convert.import_image(tmp_path / "missing", tmp_path / "out.img")
    with pytest.raises(FileExistsError):
        disk_convert.import_image(raw, damaged)
    with pytest.raises(ValueError, match="none of"):
        disk_convert.export_image(raw, tmp_path / "out", "zip")
    monkeypatch.setattr(disk_convert, "PROGRAM", "no-such-qemu-img")
    with pytest.raises(disk_convert.ConverterMissing, match="qemu-utils"):
        disk_convert.import_image(raw, tmp_path / "out.img")
    assert sorted(tmp_path.iterdir()) == before


def test_names_are_never_taken_for_options_or_protocols(raw, tmp_path):
    odd = tmp_path / "nbd:localhost:10809"
    raw.rename(odd)
    assert disk_convert.import_image(odd, tmp_path / "--help") == SIZE
    assert (tmp_path / "--help").read_bytes() == odd.read_bytes()
