"""What a fault inside the target leaves in the log: where it happened, and nothing of a key or a block."""

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
    assert "encryption.establish(new, nexus" in logged  # where it happened
    key = bytes.fromhex(KEY)
    for secret in (KEY[:16], repr(key)[2:30], str(list(key[:6]))[1:-1], BLOCK):
        assert secret not in logged
