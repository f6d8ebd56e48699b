"""`./quickstart --hot`, as the README says it: what it does and what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop import guest
from tests.support import packages

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.guest
@pytest.mark.timeout(300)  # a guest that boots and is backed up, on a host that may be busy
def test_what_it_prints() -> None:
    packages.require(*guest.PACKAGES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.interop.hot_demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| /srv/data: held still for less than [\d.]+ s\n", done.stdout)
    assert re.search(r"The database on it is whole, with [1-9]\d+ rows\.", done.stdout)
    assert "Bytes of files over the server's network: 0; bytes in all: " in done.stdout
    assert "Traceback" not in done.stdout


def test_its_packages_are_those_that_a_guest_needs() -> None:
    lines = (ROOT / "scripts/packages.hot").read_text().splitlines()
    named = {name for line in lines if not line.startswith("#") for name in line.split()}
    assert named == set(guest.PACKAGES)
    assert "scripts/packages.hot" in (ROOT / "quickstart").read_text()
