"""QEMU's tools as the initiator: its block layer over libiscsi, against the bytes of the image on the host."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import packages
from tests.support.appliance import Appliance, Disk

MIB = 1 << 20
SIZE = 16 * MIB
# What the disks tell as their optimal unmap granularity: qemu leaves the rest of a discarded range alone.
GRANULE = 4096
DISKS = {"small-blocks": 512, "large-blocks": 4096}
# QEMU 7.2 asks for the allocation of 2 GiB - 512 bytes before a longer read, and aborts where that is no whole block.
LONGEST_READ = {512: SIZE, 4096: 28672}
USER, SECRET = "qemu", "a-secret-of-qemu"
CHAP = f'[[chap.accounts]]\ninitiator = "*:proves-itself"\nuser = "{USER}"\nsecret = "{SECRET}"'
ANYONE = '[[chap.accounts]]\ninitiator = "iqn.2008-11.org.linux-kvm*"\nuser = "nobody"\nsecret = "nobody-uses-this"'


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    packages.require("qemu-utils", "qemu-block-extra")
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks" / "protected.img").write_bytes(os.urandom(MIB))
    disks = [
        Disk("small-blocks", f"{SIZE}"),
        Disk("large-blocks", f"{SIZE}", "block_size = 4096"),
        Disk("protected", f"{MIB}", "read_only = true"),
    ]
    with Appliance(tmp_path, disks=disks, drives=0, cartridges=0) as running:
        yield running
    assert not running.problems(), running.log_text()


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


def qemu_io(url: str, *commands: str) -> str:
    """Runs qemu-io's commands on one connection; raises AssertionError when one fails."""
    arguments = [word for command in commands for word in ("-c", command)]
    command = ["qemu-io", "-f", "raw", *arguments, url]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def sparse_content(seed: int) -> bytes:
    """SIZE bytes: random ones in its first and last blocks and here and there, else zeros."""
    rng = random.Random(seed)
    content = bytearray(SIZE)
    for offset in (0, SIZE - 4096, *(rng.randrange(0, SIZE - 200_000) for _ in range(10))):
        piece = rng.randbytes(min(rng.randint(1, 200_000), SIZE - offset))
        content[offset : offset + len(piece)] = piece
    return bytes(content)


@pytest.mark.parametrize("disk", DISKS)
def test_info_tells_the_size_and_the_granularity(appliance: Appliance, disk: str) -> None:
    told = json.loads(qemu_img("info", "--output=json", appliance.url(disk)))
    assert (told["virtual-size"], told["cluster-size"], told["format"]) == (SIZE, GRANULE, "raw")


@pytest.mark.parametrize("disk", DISKS)
def test_convert_there_and_back_gives_the_same_bytes(appliance: Appliance, tmp_path: Path, disk: str) -> None:
    content = sparse_content(seed=1)
    (tmp_path / "source.raw").write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "source.raw", tmp_path / "source.qcow2")
    url = appliance.url(disk)
    # -W -m: out of order, many at once.
    convert = ("convert", "-W", "-m", "8", "-n", "-f", "qcow2", "-O", "raw")
    qemu_img(*convert, "--target-is-zero", tmp_path / "source.qcow2", url)
    assert appliance.image(disk).read_bytes() == content
    assert appliance.image(disk).stat().st_blocks * 512 < SIZE // 2
    qemu_img("compare", "-f", "raw", "-F", "qcow2", url, tmp_path / "source.qcow2")
    qemu_img("convert", "-f", "raw", "-O", "qcow2", url, tmp_path / "back.qcow2")
    qemu_img("compare", "-f", "qcow2", "-F", "raw", tmp_path / "back.qcow2", url)
    # Over other content, without --target-is-zero: what is zero in the source has to become zero here.
    other = sparse_content(seed=2)
    (tmp_path / "other.raw").write_bytes(other)
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", tmp_path / "other.raw", url)
    assert appliance.image(disk).read_bytes() == other


def test_compare_finds_one_byte(appliance: Appliance, tmp_path: Path) -> None:
    content = bytearray(sparse_content(seed=3))
    (tmp_path / "whole.raw").write_bytes(content)
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", tmp_path / "whole.raw", appliance.url("small-blocks"))
    content[SIZE - 1] ^= 1
    (tmp_path / "other.raw").write_bytes(content)
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(tmp_path / "other.raw")]
    found = subprocess.run([*compare, appliance.url("small-blocks")], check=False, capture_output=True, text=True)
    assert (found.returncode, f"at offset {SIZE - 512}" in found.stdout) == (1, True), found.stdout


def random_commands(model: bytearray, rng: random.Random, block: int, count: int) -> Iterator[str]:
    """Commands of qemu-io that change a disk, and read back and compare; `model` follows them."""
    for _ in range(count):
        kind = rng.choice(("write", "write", "write -f", "write -z", "write -z -u", "discard", "read"))
        unit = GRANULE if kind == "discard" else block
        length = rng.randint(1, 200_000 // unit) * unit
        offset = rng.randrange((SIZE - length) // unit) * unit
        if kind == "read":
            # qemu-io compares with one byte only: read as far as the model has nothing else.
            value, longest = model[offset], min(length, LONGEST_READ[block])
            same = len(model[offset : offset + longest]) - len(model[offset : offset + longest].lstrip(bytes([value])))
            if same >= block:
                yield f"read -P {value} {offset} {same // block * block}"
            continue
        value = rng.randrange(256) if kind in ("write", "write -f") else 0
        pattern = f"-P {value} " if kind in ("write", "write -f") else ""
        yield f"{kind} {pattern}{offset} {length}"
        model[offset : offset + length] = bytes([value]) * length


@pytest.mark.parametrize("disk", DISKS)
def test_random_writes_zeroes_and_discards(appliance: Appliance, disk: str) -> None:
    seed, model = 3720, bytearray(SIZE)
    rng = random.Random(seed)
    for _ in range(4):
        said = qemu_io(appliance.url(disk), *random_commands(model, rng, DISKS[disk], 150), "flush")
        assert "Pattern verification failed" not in said, f"seed {seed}: {said}"
        assert appliance.image(disk).read_bytes() == model, f"seed {seed}"


def test_discard_gives_space_back_and_reads_as_zeros(appliance: Appliance) -> None:
    url, image = appliance.url("small-blocks"), appliance.image("small-blocks")
    qemu_io(url, f"write -P 0x5a 0 {SIZE}", "flush")
    assert image.stat().st_blocks * 512 >= SIZE
    qemu_io(url, f"discard 1M {SIZE - 2 * MIB}", f"read -P 0 1M {SIZE - 2 * MIB}", "read -P 0x5a 0 1M")
    assert image.stat().st_blocks * 512 <= 3 * MIB
    extents = json.loads(qemu_img("map", "--output=json", "-f", "raw", url))
    assert [(each["start"], each["length"], each["data"], each["zero"]) for each in extents] == [
        (0, MIB, True, False),
        (MIB, SIZE - 2 * MIB, False, True),
        (SIZE - MIB, MIB, True, False),
    ]


def test_many_writes_at_once(appliance: Appliance) -> None:
    count, length = 2000, 8192
    sizes = ("-c", str(count), "-s", str(length), "-S", str(length))
    options = ("-w", "-t", "none", "-d", "64", "--pattern=0xa5", "--flush-interval=100", "-f", "raw")
    qemu_img("bench", *sizes, *options, appliance.url("small-blocks"))
    assert appliance.image("small-blocks").read_bytes() == (b"\xa5" * count * length)[:SIZE].ljust(SIZE, b"\0")


def test_a_protected_disk_is_read_only(appliance: Appliance, tmp_path: Path) -> None:
    before, url = appliance.image("protected").read_bytes(), appliance.url("protected")
    qemu_img("convert", "-f", "raw", "-O", "raw", url, tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == before
    refused = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 4096", url], check=False, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert "write protected" in refused.stderr
    assert appliance.image("protected").read_bytes() == before


def _options(appliance: Appliance, **more: str) -> str:
    options: dict[str, Any] = {
        "driver": "raw",
        "file.driver": "iscsi",
        "file.transport": "tcp",
        "file.portal": appliance.portal,
        "file.target": appliance.target_name,
        "file.lun": appliance.lun("disk"),
        **{f"file.{name.replace('_', '-')}": value for name, value in more.items()},
    }
    return ",".join(f"{name}={value}" for name, value in options.items())


def test_chap_and_header_digests(tmp_path: Path) -> None:
    packages.require("qemu-utils", "qemu-block-extra")
    who = {"initiator_name": "iqn.2026-01.org.example:proves-itself", "user": USER, "password_secret": "word"}
    with Appliance(
        tmp_path, disks=[Disk("disk", "1 MiB")], drives=0, cartridges=0, more=f"{CHAP}\n{ANYONE}"
    ) as running:
        for digest in ("none", "crc32c"):
            options = _options(running, **who, header_digest=digest)
            secret = ("--object", f"secret,id=word,data={SECRET}")
            subprocess.run(
                ["qemu-io", *secret, "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M", "--image-opts", options],
                check=True,
            )
        assert running.image("disk").read_bytes() == b"\7" * MIB
        digests = [entry["header_digest"] for entry in running.log if entry.get("event") == "login"]
        assert digests == [False, True]
        for wrong in ({"header_digest": "none"}, {**who, "user": "nobody"}):
            refused = subprocess.run(
                ["qemu-img", "info", *secret, "--image-opts", _options(running, **wrong)],
                capture_output=True,
                text=True,
            )
            assert refused.returncode == 1
            assert "Failed to connect to LUN" in refused.stderr, refused.stderr
