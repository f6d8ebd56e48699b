"""A file system that is really full, and one that is really read-only."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cartridge.real_disk import CASES

UNSHARE = ["unshare", "--mount", "--map-root-user"]


def can_mount(directory: Path) -> bool:
    command = [*UNSHARE, "mount", "-t", "tmpfs", "none", str(directory)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("case", sorted(CASES))
def test_on_a_real_file_system(case: str, tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("needs user and mount namespaces (unshare)")
    command = [*UNSHARE, sys.executable, "-m", "tests.unit.cartridge.real_disk", str(tmp_path), case]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stdout + run.stderr
