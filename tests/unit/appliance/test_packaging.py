"""The systemd recipe, as systemd itself judges it; the container's recipe, as far as it can be read."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.agent.network_process import USERS

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "packaging" / "tapebay.service"
EXPOSURE_AT_MOST = 2.5  # of 10; systemd calls up to 4.9 "OK"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_the_service_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert score is not None, done.stderr
    assert float(score[1]) <= EXPOSURE_AT_MOST, done.stdout


@needs_systemd
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "tapebay.service"  # with a program that is there
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "tapebay.service" not in done.stderr, done.stderr


@needs_systemd
def test_systemd_understands_the_agent_that_serves(tmp_path: Path) -> None:
    unit = (ROOT / "packaging" / "tapebay-agent.service").read_text()
    unit, count = re.subn(r"^ExecStart=\S+ (.*)", r"ExecStart=/bin/true \1", unit, flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "tapebay-agent.service").write_text(unit)
    command = ["systemd-analyze", "verify", str(tmp_path / "tapebay-agent.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "tapebay-agent" not in done.stderr, done.stderr


@needs_systemd
def test_systemd_understands_the_agents_service_and_timer(tmp_path: Path) -> None:
    for kind in ("service", "timer"):
        unit = (ROOT / "packaging" / f"tapebay-agent@.{kind}").read_text()
        unit = re.sub(r"^ExecStart=\S+ (.*)", r"ExecStart=/bin/true \1", unit, flags=re.MULTILINE)
        (tmp_path / f"tapebay-agent@.{kind}").write_text(unit)
    command = ["systemd-analyze", "verify", str(tmp_path / "tapebay-agent@nightly.timer")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "tapebay-agent" not in done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_service_runs_as_a_user_that_its_recipe_makes(tmp_path: Path) -> None:
    user = re.search(r"^User=(\S+)", UNIT.read_text(), re.MULTILINE)
    assert user is not None
    assert _users_made(tmp_path, "tapebay.sysusers").startswith(f"{user[1]}:")


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_the_agents_network_process_has_a_user_that_its_recipe_makes(tmp_path: Path) -> None:
    assert _users_made(tmp_path, "tapebay-agent.sysusers").startswith(f"{USERS[0]}:")


def _users_made(root: Path, recipe: str) -> str:
    """systemd-sysusers makes what the recipe says, in a root of its own: its passwd."""
    (root / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={root}", "--inline", *_lines(ROOT / "packaging" / recipe)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (root / "etc" / "passwd").read_text()


def _lines(recipe: Path) -> list[str]:
    return [line for line in recipe.read_text().splitlines() if line and not line.startswith("#")]


def test_the_recipe_names_every_step() -> None:
    text = UNIT.read_text()
    for step in ("pip install", "systemd-sysusers", "daemon-reload", "enable --now", "serve --init"):
        assert step in text, step
    operating = (ROOT / "docs" / "operating.md").read_text()
    assert "packaging/tapebay.service" in operating
