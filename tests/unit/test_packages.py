"""What the tests ask for is what ./run-tests installs."""

from pathlib import Path

from tests.support import packages

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def listed(name: str) -> set[str]:
    """The Debian packages of one list."""
    return {word for line in (SCRIPTS / name).read_text().splitlines() for word in line.partition("#")[0].split()}


def test_every_package_that_a_test_asks_for_is_installed_by_run_tests() -> None:
    assert set(packages._EVIDENCE) <= listed("packages.run") | listed("packages.test")


def test_every_package_for_tests_can_be_told_missing() -> None:
    assert listed("packages.test") <= set(packages._EVIDENCE)
