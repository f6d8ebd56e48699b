"""The ways people start it for the first time: each works, or says in one line what to do. Real processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.appliance.daemon_process import ROOT, Daemon

OWN_TOML = (
    '[[portals]]\nlisten = "127.0.0.1:0"\n[[targets]]\niqn = "iqn.2026-11.io.tapebay:own"\n[[drives]]\nname = "d"\n'
)
SOMEBODY = 54321  # a user that this machine does not know

as_somebody = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root becomes another user"
)


def tapebay(*arguments: object, user: int | None = None, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
    command = [*become, sys.executable, "-P", "-m", "appliance", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, errors="surrogateescape", timeout=60
    )


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode not in (0, 70), done
    assert done.stderr.startswith("tapebay: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_an_own_file_and_an_empty_volume(tmp_path: Path) -> None:
    (tmp_path / "tapebay.toml").write_text(OWN_TOML)
    assert "tapebay serve --init" in one_line(tapebay("serve", "--config", tmp_path))
    assert "leave the options out" in one_line(tapebay("init", tmp_path, "--slots", 7))
    daemon = Daemon(tmp_path, "--init")
    try:
        daemon.wait_ready()
        assert daemon.call("status")["library"] == "tapebay"
    finally:
        assert daemon.stop() == 0
    assert (tmp_path / "tapebay.toml").read_text() == OWN_TOML


def test_an_own_file_and_two_empty_volumes(tmp_path: Path) -> None:
    """They look like volumes that are not mounted, so only `init`, by which somebody means it, begins anew."""
    for name in ("state", "cartridges"):
        (tmp_path / name).mkdir()
    (tmp_path / "tapebay.toml").write_text(OWN_TOML)
    assert "if there never was a library, run tapebay init" in one_line(
        tapebay("serve", "--init", "--config", tmp_path)
    )
    assert tapebay("init", tmp_path).returncode == 0
    assert (tmp_path / "tapebay.toml").read_text() == OWN_TOML
    daemon = Daemon(tmp_path)
    daemon.wait_ready()
    assert daemon.stop() == 0
    assert "exists already, with its library" in one_line(tapebay("init", tmp_path))
    (tmp_path / "state" / "tapebay.db").unlink()
    (tmp_path / "cartridges" / "A00001L6").mkdir()
    assert "exists already, with its library" in one_line(tapebay("init", tmp_path))


def test_ctrl_c_while_modules_are_read_is_no_traceback(tmp_path: Path) -> None:
    script = (
        "import sys\nmodule = sys.argv[1]\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == module: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from appliance.__main__ import main\n"
        "sys.argv[1:] = ['status']\n"
        "main()"
    )
    for module in ("appliance.cli.app", "typer"):
        done = subprocess.run([sys.executable, "-c", script, module], cwd=ROOT, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_the_first_start_with_a_full_log(tmp_path: Path) -> None:
    (tmp_path / "tapebay.toml").write_text(OWN_TOML)
    script = (
        "import sys; from pathlib import Path; from appliance.operations import setup\n"
        "setup.create_default(Path(sys.argv[1])); print('made')"
    )
    with Path("/dev/full").open("w") as full:
        made = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "tapebay.toml"], stdout=subprocess.PIPE, stderr=full, cwd=ROOT
        )
    assert (made.returncode, made.stdout) == (0, b"made\n")


def test_half_a_library_is_not_made_whole(tmp_path: Path) -> None:
    """The other half's volume may not be mounted."""
    (tmp_path / "tapebay.toml").write_text(OWN_TOML)
    (tmp_path / "cartridges").mkdir()
    assert "state is missing; mount its volume" in one_line(tapebay("serve", "--init", "--config", tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cartridges", "tapebay.toml"]


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory of root's, where everybody can get to it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        made = Path(directory) / "volume"
        made.mkdir()
        yield made


@as_somebody
@pytest.mark.parametrize("mode", [0o755, 0o700])
@pytest.mark.parametrize("own", [False, True])
def test_a_directory_of_root_for_another_user(volume: Path, mode: int, own: bool) -> None:
    if own:
        (volume / "tapebay.toml").write_text(OWN_TOML)
    volume.chmod(mode)
    said = one_line(tapebay("serve", "--init", "--config", volume, user=SOMEBODY))
    assert f"chown -R {SOMEBODY}:{SOMEBODY} {volume}" in said


@as_somebody
def test_no_advice_to_give_a_whole_home_away(volume: Path) -> None:
    (volume / "library").mkdir()
    volume.chmod(0o700)
    said = one_line(tapebay("serve", "--init", "--config", volume / "library", user=SOMEBODY))
    assert "chown" not in said
    assert f"may not use {volume} (user 0, group 0, mode 700), so it cannot get to {volume / 'library'}" in said


@as_somebody
def test_any_user_may_own_a_library(volume: Path) -> None:
    os.chown(volume, SOMEBODY, SOMEBODY)
    assert tapebay("init", volume, "--portal", "127.0.0.1:0", user=SOMEBODY).returncode == 0
    assert tapebay("check", "--config", volume, user=SOMEBODY).stdout == f"{volume}/tapebay.toml is valid\n"
    made = tapebay("cartridge", "create", "A00001L6", "--config", volume, user=SOMEBODY)
    assert (made.returncode, made.stderr) == (0, "")


def test_a_terminal_that_goes_away_stops_it_cleanly(tmp_path: Path) -> None:
    assert tapebay("init", tmp_path / "lib", "--portal", "127.0.0.1:0").returncode == 0
    daemon = Daemon(tmp_path / "lib")
    daemon.wait_ready()
    assert daemon.stop(signal.SIGHUP) == 0
    assert [line["event"] for line in daemon.log[-2:]] == ["stopping", "stopped"]


def test_nohup_is_heeded(tmp_path: Path) -> None:
    assert tapebay("init", tmp_path / "lib", "--portal", "127.0.0.1:0").returncode == 0
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup(1) does for its child
    try:
        daemon = Daemon(tmp_path / "lib")
    finally:
        signal.signal(signal.SIGHUP, before)
    daemon.wait_ready()
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.call("health")
    assert daemon.stop() == 0
    assert daemon.log[-2]["signal"] == "SIGTERM"


def test_a_library_in_a_directory_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xfccher"))
    made = tapebay("init", directory, "--portal", "127.0.0.1:0")
    assert made.returncode == 0, made.stderr
    assert str(directory) in made.stdout
    assert tapebay("check", "--config", directory).returncode == 0
    daemon = Daemon(directory)
    try:
        daemon.wait_ready()
        for command in (
            ("cartridge", "create", "A00001L6"),
            ("cartridge", "list"),
            ("load", "A00001L6"),
            ("status",),
            ("status", "--json"),
            ("disk", "list"),
            ("disk", "create", "data", "1 MiB"),
            ("disk", "list", "--json"),
            ("cartridge", "verify", "A00001L6"),
        ):
            done = tapebay(*command, "--config", directory)
            assert (done.returncode, done.stderr) == (0, ""), (command, done)
    finally:
        assert daemon.stop() == 0, daemon.log
    assert "A00001L6" in tapebay("cartridge", "list", cwd=directory).stdout
