"""The demonstration, whole: what README's first command does after the installation."""

import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from appliance.cli.app import app
from appliance.demo import demo
from appliance.failures import OperatorError
from appliance.operations.demo_disk import generate
from appliance.settings.units import HostAndPort
from datamover.initiator import InitiatorSession
from scsi_targets.t10 import ssc
from tests.support.packages import require
from tests.support.ports import free_port
from vlib_images.cartridge.cartridge import Cartridge


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="tapebay")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "library"
    if (tmp_path / "library" / "tapebay.sock").exists():
        assert run("stop", "--config", tmp_path / "library").exit_code == 0


@pytest.fixture
def port() -> int:
    return free_port()


def demonstrate(directory: Path, port: int) -> Any:
    done = run("demo", directory, "--portal", f"127.0.0.1:{port}", "--json")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)


def test_files_are_backed_up_and_compared_and_the_library_stays(directory: Path, port: int) -> None:
    require("libiscsi7", "e2fsprogs")
    report = demonstrate(directory, port)
    assert all(step["megabytes_per_second"] > 0 for step in report["steps"])
    assert report["steps"][0]["bytes"] > 150 << 20
    assert report["listed"] > report["files"] > 100
    assert report["network_payload_bytes"] == 0
    assert run("stop", "--config", directory).exit_code == 0
    found = {name: data for name, data in files_on(directory, report["barcode"]).items() if name.endswith(".dat")}
    assert len(found) == report["files"]
    for name, data in found.items():  # each file's content can be made again
        assert b"".join(generate(Path(name).name, len(data))) == data, name
    report = demonstrate(directory, port)
    cartridge = show(directory, "DEMO01L6")
    assert cartridge["place"].startswith("slot:")
    assert cartridge["used_bytes"] >= report["steps"][0]["bytes"]
    assert show(directory, "A00001L6")["used_bytes"] == 0

    # A second run finds everything there and does the same again.
    again = demonstrate(directory, port)
    assert again["notes"] == ["The library was running already."]
    for same in ("pid", "sha256", "barcode"):
        assert again[same] == report[same]

    text = run("demo", directory).stdout
    for line in (
        f"iscsiadm -m discovery -t sendtargets -p {report['portal']}",
        "mtx -f",
        "sg_inq",
        "mt -f",
        "Stop it:",
    ):
        assert line in text


def files_on(directory: Path, barcode: str) -> dict[str, bytes]:
    """The files of the archive on a cartridge, as Python's tarfile reads them."""
    path, buffer = directory / "archive.tar", bytearray(256 << 10)
    with Cartridge.open(directory / "cartridges" / barcode, read_only=True) as cartridge, path.open("wb") as file:
        while (result := cartridge.read_block(buffer)).length:
            file.write(buffer[: result.length])
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def test_no_data_of_anybody_is_overwritten(directory: Path, port: int) -> None:
    """Whatever was written since, wherever: the demonstration finds a cartridge that holds nothing else."""
    require("libiscsi7")
    first = demonstrate(directory, port)
    kept = {}
    for number, barcode in enumerate(["A00001L6", first["barcode"]]):
        assert run("load", barcode, f"drive:{number}", "--config", directory).exit_code == 0
        kept[barcode] = f"somebody's data on {barcode}".encode()
        append(first, lun=1 + number, data=kept[barcode])
        assert run("unload", f"drive:{number}", "--config", directory).exit_code == 0
    second = demonstrate(directory, port)
    assert (first["barcode"], second["barcode"]) == ("DEMO01L6", "DEMO02L6")
    assert demonstrate(directory, port)["barcode"] == "DEMO02L6"
    assert run("stop", "--config", directory).exit_code == 0
    for barcode, data in kept.items():
        with Cartridge.open(directory / "cartridges" / barcode, read_only=True) as cartridge:
            cartridge.space_end_of_data()
            cartridge.space_blocks(-1)
            buffer = bytearray(100)
            assert buffer[: cartridge.read_block(buffer).length] == data


def append(report: Any, lun: int, data: bytes) -> None:
    """Write a block at the end of the data of the tape at `lun`, as an initiator."""
    with InitiatorSession(report["portal"], report["target"]) as session:
        for cdb, out in [
            (ssc.Space6.encode(code=3), None),
            (ssc.Write6.encode(transfer_length=len(data)), data),
            (ssc.WriteFilemarks6.encode(), None),
        ]:
            while (result := session.command(lun, cdb, out)).status:
                assert result.sense[2] & 0x0F == 6, result.sense.hex()  # what happened before, said once


def test_an_empty_drive_is_used_and_a_loaded_one_left_alone(directory: Path, port: int) -> None:
    require("libiscsi7")
    demonstrate(directory, port)
    assert run("load", "A00001L6", "drive:0", "--config", directory).exit_code == 0
    assert demonstrate(directory, port)["equal"]
    assert show(directory, "A00001L6")["place"] == "drive:0"
    assert run("load", "A00003L6", "drive:1", "--config", directory).exit_code == 0
    refused = run("demo", directory)
    assert (refused.exit_code, refused.stderr) == (
        1,
        "tapebay: every drive is loaded; empty one: tapebay unload drive:0\n",
    )


def show(directory: Path, barcode: str) -> Any:
    return json.loads(run("cartridge", "show", barcode, "--json", "--config", directory).stdout)


def test_another_library_is_left_alone(directory: Path) -> None:
    assert run("init", directory, "--portal", "127.0.0.1:0").exit_code == 0
    refused = run("demo", directory)
    assert refused.exit_code == 1
    assert "is not the demonstration's library" in refused.stderr
    assert not (directory / "tapebay.sock").exists()


def test_a_daemon_that_cannot_start_shows_why(directory: Path, port: int) -> None:
    require("libiscsi7")
    demonstrate(directory, port)
    assert run("stop", "--config", directory).exit_code == 0
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused = run("demo", directory)
    assert refused.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in refused.stderr


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = demo.free_address(HostAndPort("127.0.0.1", port))
        assert chosen.port > port
    with pytest.raises(OperatorError, match=r"cannot listen on 192\.0\.2\.1:3260"):
        demo.free_address(HostAndPort("192.0.2.1", 3260))


@pytest.mark.parametrize(
    ("listen", "local"),
    [("0.0.0.0:3260", "127.0.0.1:3260"), ("[::]:3260", "[::1]:3260"), ("192.0.2.1:1", "192.0.2.1:1")],
)
def test_where_this_machine_reaches_a_portal(listen: str, local: str) -> None:
    assert str(demo.local_address(listen)) == local
