"""Processes that Tapebay starts of itself run the modules that it runs, not those of the working directory."""

import subprocess
from pathlib import Path

from appliance import __version__
from appliance.own_program import own_command, own_environment


def test_a_package_in_the_working_directory_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "appliance").mkdir()
    (tmp_path / "appliance" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        own_command("appliance", "version"),
        env=own_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert __version__ in done.stdout


def test_whoever_starts_one_does_it_so() -> None:
    root = Path(__file__).resolve().parents[3] / "appliance"
    wrong = [path.name for path in root.rglob("*.py") if "[sys.executable," in path.read_text(encoding="utf-8")]
    assert wrong == ["own_program.py"]
