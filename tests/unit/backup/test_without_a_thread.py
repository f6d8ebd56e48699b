"""A backup that the system has no thread for."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from appliance.backup import service
from tests.support.in_process import declared, do

CONFIG = """
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "iqn.2026-11.io.tapebay:lib"
[[drives]]
name = "drive0"
[[disks]]
name = "data"
size = "1 MiB"
"""


def test_it_has_failed_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = declared(tmp_path, CONFIG)
    try:
        do(context, "cartridge.create", barcode="BAK001L6")
        with monkeypatch.context() as patched:
            thread = Mock(start=Mock(side_effect=RuntimeError("can't start new thread")))
            patched.setattr(service, "threading", Mock(Thread=Mock(return_value=thread)))
            refused = do(context, "backup.start", disks=["data"], to=["BAK001L6"])
        assert refused["state"] == "failed"
        assert "no thread to spare" in refused["reason"]
        assert do(context, "backup.resume", number=refused["number"])["state"] == "done"
    finally:
        context.library.close()
