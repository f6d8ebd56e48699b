"""What the demonstration tells people to try, tried: its lines, as they are printed, on a real Linux initiator."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.cli.app import app
from appliance.operations import setup
from appliance.operations.demo_disk import generate
from tests.interop import guest
from tests.interop.guest import Step
from tests.support import packages
from tests.support.ports import free_port

SMALL, LARGE = "file-00000.dat", "file-00007.dat"
pytestmark = pytest.mark.guest


def tapebay(*arguments: object) -> Any:
    done = CliRunner().invoke(app, list(map(str, arguments)), prog_name="tapebay")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done.stdout


@pytest.fixture
def report(tmp_path: Path) -> Iterator[Any]:
    packages.require("libiscsi7", "sg3-utils", "mt-st", "mtx", *guest.PACKAGES)
    port = free_port()
    directory = tmp_path / "library"
    reached = f"{guest.HOST_ADDRESS}:{port}"
    setup.create(directory, setup.plan(directory, portal=f"127.0.0.1:{port}", advertise=reached, demo=True))
    yield json.loads(tapebay("demo", directory, "--json"))
    tapebay("stop", "--config", directory)


def test_the_printed_lines_work(report: Any) -> None:
    lines = [line.strip() for line in report["text"] if line.startswith("  ")]
    login = next(number for number, line in enumerate(lines) if line.endswith("--login"))
    steps = [Step("start", "start_iscsid"), *(Step(line, line) for line in lines)]
    steps.insert(login + 2, Step("devices", "retry device_count 4"))
    listing = next(number for number, step in enumerate(steps) if step.script.startswith("tar -b 512 -tvf"))
    wanted = f"demo/project-0/{SMALL} demo/project-0/{LARGE}"
    steps[listing + 1 : listing + 1] = [
        Step("rewind", "mt -f $TAPE rewind"),
        Step("extract", f"mkdir /tmp/out && tar -b 512 -xpf $TAPE -C /tmp/out {wanted}"),
        Step("sums", "cd /tmp/out/demo/project-0 && sha256sum *"),
    ]
    run = guest.run(steps, portal=report["portal"], target=report["target"])
    assert report["target"] in run[lines[0]]
    listed = run["tar -b 512 -tvf $TAPE"].splitlines()
    assert len(listed) == report["listed"]
    assert any(line.endswith(f"demo/project-0/{LARGE}") for line in listed)
    for name, length in ((SMALL, 123), (LARGE, 70_000)):
        assert hashlib.sha256(b"".join(generate(name, length))).hexdigest() in run["sums"]
    assert "IBM      ULT3580-TD6" in run["lsscsi -g"]
    assert "ONLINE" in run["mt -f $TAPE status"]
    loaded = "Data Transfer Element 0:Full (Storage Element 1 Loaded):VolumeTag = A00001L6"
    assert loaded in run["mtx -f $CHANGER status"]
    assert "3573-TL" in run["sg_inq $CHANGER"]
    run.require_quiet_kernel()
