"""Disk images that somebody else made: nothing is opened because an image says so, by us or by qemu-img."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from tests.support import packages
from vlib_images.disk import convert as disk_convert
from vlib_images.disk.convert import ConversionFailed
from vlib_images.disk.foreign import TakesFromElsewhere, check_references

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _qemu_img():
    packages.require("qemu-utils")


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "elsewhere" / "secret"
    path.parent.mkdir()
    path.write_bytes(b"s" * SIZE)
    return path


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "image"


def refused(source, tmp_path, words="takes content from"):
    for attempt in (
        lambda: disk_convert.import_image(source, tmp_path / "out.img"),
        lambda: disk_convert.virtual_size(source),
    ):
        with pytest.raises(ConversionFailed, match=words):
            attempt()
    assert not (tmp_path / "out.img").exists()


def with_data_file(source, name: bytes):
    """A qcow2 whose external data file has this name, which qemu-img itself would not write there."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={source.parent / 'data'}", str(source), "1M")
    content = bytearray(source.read_bytes())
    at = content.index(struct.pack(">I", 0x44415441))
    old = struct.unpack_from(">I", content, at + 4)[0]
    room = -(-old // 8) * 8
    rest = bytes(content[at + 8 + room : 4096])
    content[at + 4 : 4096] = (struct.pack(">I", len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0") + rest)[
        : 4096 - at - 4
    ]
    source.write_bytes(content)
    (source.parent / "data").unlink()


def test_a_qcow2_with_a_json_data_file_reaches_nothing(source, secret, tmp_path):
    description = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(secret)}})
    with_data_file(source, b"json:" + description.encode())
    refused(source, tmp_path)


def test_qemu_img_is_not_even_asked(source, tmp_path, monkeypatch):
    """Its `info` opens a data file: a pipe would hang it, an address would be called."""
    os.mkfifo(source.parent / "data.pipe")
    with_data_file(source, str(source.parent / "data.pipe").encode())
    monkeypatch.setattr(disk_convert, "PROGRAM", "no-such-qemu-img")
    refused(source, tmp_path)


@pytest.mark.parametrize("image_format", ["qcow", "qcow2", "qed"])
def test_backing_files_are_refused(source, secret, tmp_path, image_format):
    qemu_img("create", "-q", "-f", image_format, "-b", str(secret), "-F", "raw", str(source), "1M")
    refused(source, tmp_path)


def test_a_backing_file_that_is_missing_is_refused_too(source, tmp_path):
    backing = tmp_path / "gone"
    backing.write_bytes(bytes(SIZE))
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(backing), "-F", "raw", str(source))
    backing.unlink()
    refused(source, tmp_path)


DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=ee278ba1
parentCID=ffffffff
createType="monolithicFlat"

{extents}
"""


@pytest.mark.parametrize("head", ["", "# a comment\n", "   \r\n \n", "#\n#\n"])
@pytest.mark.parametrize(
    "extents",
    [
        'RW 2048 FLAT "../elsewhere/secret" 0',
        'RW 2048 FLAT "{secret}" 0',
        'RW\n2048\nFLAT\n"{secret}"\n0',
        'RW 2048 FLAT "file:{secret}" 0',
        'RW 2048 FLAT "nbd:localhost:10809" 0',
        'RW 2048 FLAT "link" 0',
        'RW 2048 FLAT "hard" 0',
        'RW 2048 FLAT "pipe" 0',
        'RW 2048 FLAT "missing" 0',
        'RW 2048 SPARSE "nested.vmdk"',
        'RW 2048 FLAT "plain" 0\nparentFileNameHint="{secret}"',
    ],
)
def test_extents_elsewhere_are_refused(source, secret, tmp_path, head, extents):
    folder = source.parent
    (folder / "link").symlink_to(secret)
    (folder / "hard").hardlink_to(secret)
    (folder / "plain").write_bytes(bytes(SIZE))
    os.mkfifo(folder / "pipe")
    # A header without sectors of its own, and a descriptor inside it.
    inner = DESCRIPTOR.format(extents=f'RW 2048 FLAT "{secret}" 0').encode()
    nested = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20).ljust(512, b"\0") + inner.ljust(10240, b"\0")
    (folder / "nested.vmdk").write_bytes(nested)
    source.write_text(head + DESCRIPTOR.format(extents=extents.format(secret=secret)))
    refused(source, tmp_path)
    shutil.copy(folder / "nested.vmdk", source)
    refused(source, tmp_path)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"])
def test_a_vmdk_of_one_folder_is_imported(tmp_path, subformat):
    raw, image = tmp_path / "raw", tmp_path / "disk.vmdk"
    raw.write_bytes(os.urandom(SIZE))
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", str(raw), str(image))
    assert disk_convert.import_image(image, tmp_path / "out.img") == SIZE
    assert (tmp_path / "out.img").read_bytes() == raw.read_bytes()


def test_a_parent_of_a_vmdk_is_refused(tmp_path, source):
    parent = tmp_path / "parent.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", str(parent), "1M")
    qemu_img("create", "-q", "-f", "vmdk", "-b", str(parent), "-F", "vmdk", str(source))
    refused(source, tmp_path)


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QED\0", b"KDMV", b"COWD", b"version=1\n", b"#" * 5000])
def test_stumps_are_no_crash(source, content):
    source.write_bytes(content)
    check_references(source)


def test_an_image_that_is_no_file_is_refused(source):
    os.mkfifo(source)
    with pytest.raises(OSError, match="no regular file"):
        disk_convert.virtual_size(source)


def test_a_link_under_the_partial_name_is_not_followed(source, secret, tmp_path):
    source.write_bytes(os.urandom(SIZE))
    for plant in (lambda name: name.symlink_to(secret), lambda name: name.mkdir()):
        plant(tmp_path / ".out.img.partial")
        assert disk_convert.import_image(source, tmp_path / "out.img") == SIZE
        assert secret.read_bytes() == b"s" * SIZE
        assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "in", "out.img"]
        (tmp_path / "out.img").unlink()
    (tmp_path / "out.img").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        disk_convert.import_image(source, tmp_path / "out.img")
    assert not (tmp_path / "nowhere").exists()


def test_names_of_extents_are_bounded(source):
    (source.parent / "x").write_bytes(bytes(512))
    source.write_text("version=1\n" + 'RW 1 FLAT "x" 0\n' * 5000)
    with pytest.raises(TakesFromElsewhere):
        check_references(source)
