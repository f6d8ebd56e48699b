"""What a fault inside the target leaves in the log: where it happened, and nothing of a key or a block."""

import json
import subprocess
import sys

import pytest

KEY = "00112233445566778899aabbccddeeff" * 2
BLOCK = "what nobody may read in a log"

SCRIPT = f"""
import tempfile
from pathlib import Path
from appliance import logs
from appliance.settings.settings import LoggingSettings
from scsi_targets.devices.tape.encryption_parameters import EncryptionParameters
from tests.unit.devices.tape.support import loaded_drive, write
from tests.unit.devices.tape.encryption_support import set_encryption

logs.configure(LoggingSettings(level="debug", format={{format!r}}))
with tempfile.TemporaryDirectory() as folder:
    drives = loaded_drive(Path(folder))
    drive = next(drives)
    establish = EncryptionParameters.establish

    def broken(self, new, nexus, *, lock):
        kept.append(new.key)
        raise RuntimeError("a fault of ours")

    kept = []
    EncryptionParameters.establish = broken
    key = bytes.fromhex({KEY!r})
    assert set_encryption(drive, key=key).sense[2] & 15 == 4
    assert bytes(kept[0]._key) == bytes(32), "the key was not wiped"
    EncryptionParameters.establish = establish
    assert set_encryption(drive, key=key).status == 0
    drive.loaded.write_block = None
    block = {BLOCK!r}.encode()
    assert write(drive, block).sense[2] & 15 == 4
    del drive.loaded.write_block
    drives.close()
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_key_and_no_block(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(format=log_format)], capture_output=True, text=True, check=False
    )
    logged = done.stdout + done.stderr
    assert done.returncode == 0, logged
    assert logged.count("command failed inside the target") == 2
    assert "RuntimeError: a fault of ours" in logged
    assert "parameters.establish(new, nexus" in logged  # where it happened
    key = bytes.fromhex(KEY)
    for secret in (KEY[:16], repr(key)[2:30], str(list(key[:6]))[1:-1], BLOCK):
        assert secret not in logged


FULL = """
import os, sys
from appliance import logs
from appliance.settings.settings import LoggingSettings

import structlog

class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")
    __str__ = __repr__

logs.configure(LoggingSettings(level="debug", format={format!r}))
log = structlog.get_logger("test")
log.info("before")
kept = os.dup(2)
for target in ("/dev/full", None):
    if target:
        os.dup2(os.open(target, os.O_WRONLY), 2)
    else:
        os.close(2)
    for _ in range(3):
        log.error("lost", exc_info=RuntimeError("a fault"))
os.dup2(kept, 2)
log.info("after")
log.info("odd", value=Unprintable(), name="\\udcff")
sys.stderr.close()
log.error("nobody hears this")
os.write(1, b"survived")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logging_never_raises_and_says_later_what_was_lost(log_format: str) -> None:
    """On a full disk, without standard error, with what cannot be rendered."""
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(format=log_format)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "survived"), done.stderr
    lines = done.stderr.splitlines()
    told = [number for number, line in enumerate(lines) if "lines of the log could not be written" in line]
    assert len(told) == 1
    assert "6" in lines[told[0]]
    assert "before" in lines[told[0] - 1] and "after" in lines[told[0] + 1]
    assert "odd" in lines[-1]
    if log_format == "json":
        assert [json.loads(line) for line in lines[:3]]


def test_a_line_that_was_written_in_part_does_not_spoil_the_next() -> None:
    """A pipe that takes a little, then nothing: as a disk that fills up in the middle of a line."""
    script = """
import os
from appliance import logs
from appliance.settings.settings import LoggingSettings
import structlog
logs.configure(LoggingSettings(level="debug", format="json"))
log = structlog.get_logger()
reader, writer = os.pipe()
os.set_blocking(writer, False)
os.dup2(writer, 2)
log.info("x" * 200000)
taken = os.read(reader, 1 << 20)
log.info("whole")
os.write(1, os.read(reader, 1 << 20))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, lost, whole = done.stdout.split("\n")[:3]
    assert first == ""
    assert json.loads(lost)["lost"] == 1
    assert json.loads(whole)["event"] == "whole"


def test_lines_that_initiators_cause_are_bounded_and_counted() -> None:
    script = """
import logging
from functools import partial
from appliance import logs
from appliance.settings.settings import LoggingSettings
import structlog
now = [0.0]
logs.LogLines = partial(logs.LogLines, clock=lambda: now[0])
logs.configure(LoggingSettings(level="info", format="json"))
log = structlog.get_logger()
for number in range(logs.BURST_LINES + 1000):
    log.info("copy done", number=number)
log.info("another event")
now[0] = 1 / logs.LINES_PER_SECOND
log.info("copy done", number=-1)
logging.getLogger("uvicorn.error").warning("too %s", "many")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines[-3:]] == ["another event", "copy done", "too many"]
    assert lines[-2]["lines_left_out"] == 1000
    assert len(lines) == 500 + 3
    assert lines[-1]["level"] == "warning" and lines[-1]["logger"] == "uvicorn.error"
