"""The demonstration's disk: real data, the same each time."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.operations import demo_disk
from tests.support.packages import require


def test_generated_data_is_the_same_each_time() -> None:
    first, again = (b"".join(demo_disk.generate("seed", 3_000_001)) for _ in range(2))
    assert len(first) == 3_000_001
    assert first == again != b"".join(demo_disk.generate("other", 3_000_001))


def test_an_ext4_file_system_with_the_generated_files(tmp_path: Path) -> None:
    require("e2fsprogs")
    seen: list[tuple[int, int]] = []
    content = demo_disk.create(tmp_path / "demo.img", 32 << 20, lambda done, total: seen.append((done, total)))
    assert content.startswith("an ext4 file system")
    assert (tmp_path / "demo.img").stat().st_size == 32 << 20
    assert seen == sorted(seen)
    assert 0 < seen[0][0] < seen[-1][0]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    image = str(tmp_path / "demo.img")
    subprocess.run(["e2fsck", "-fn", image], env=environment, check=True, capture_output=True)
    command = ["debugfs", "-R", "cat /project-3/file-00003.dat", image]
    found = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    expected = b"".join(demo_disk.generate("file-00003.dat", 1 << 20))
    assert hashlib.sha256(found).digest() == hashlib.sha256(expected).digest()
    assert [path.name for path in tmp_path.iterdir()] == ["demo.img"]


def test_without_mke2fs_the_data_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_arguments, **_keywords: None)
    assert "no file system" in demo_disk.create(tmp_path / "demo.img", 3 << 20)
    first = (tmp_path / "demo.img").read_bytes()
    assert len(first) == 3 << 20
    demo_disk.create(tmp_path / "demo.img", 3 << 20)
    assert (tmp_path / "demo.img").read_bytes() == first


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    require("e2fsprogs")
    with pytest.raises(OSError, match="mke2fs could not make"):
        demo_disk.create(tmp_path / "demo.img", 16 << 10)
    assert list(tmp_path.iterdir()) == []
