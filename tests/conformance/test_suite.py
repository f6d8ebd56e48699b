"""libiscsi's conformance suite against a live Tapebay.

What is expected not to pass stands in expectations.toml, with the reason.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.invocations import INVOCATIONS, Invocation, expectations, expected, selected
from tests.support import packages
from tests.support.appliance import Appliance

BY_NAME = {invocation.name: invocation for invocation in INVOCATIONS}
CASES = [(invocation.name, test) for invocation in INVOCATIONS for test in selected(invocation)]
PACKAGES = ("libiscsi-bin", "libiscsi-dev", "gcc")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages.require(*PACKAGES)
    return suite.build_shim(tmp_path_factory.mktemp("shim"))


class Servers:
    """One running appliance, replaced when a test of another invocation comes along."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._name: str | None = None
        self._appliance: Appliance | None = None

    def get(self, invocation: Invocation) -> Appliance:
        if self._appliance is None or self._name != invocation.name or not self._appliance.is_running():
            self.stop()
            disks = [invocation.disk] if invocation.disk else []
            folder = self._folders.mktemp(invocation.name)
            self._appliance = Appliance.with_loaded_drive(folder, disks=disks, portals=invocation.paths)
            self._name = invocation.name
        return self._appliance

    def stop(self) -> None:
        if self._appliance is not None and self._appliance.is_running():
            self._appliance.stop()
        self._appliance = None


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    packages.require(*PACKAGES)
    running = Servers(tmp_path_factory)
    yield running
    running.stop()


@pytest.mark.parametrize(("name", "test"), CASES or [("disk", "none")])
def test_conformance(servers: Servers, shim: Path, name: str, test: str) -> None:
    invocation = BY_NAME[name]
    appliance = servers.get(invocation)
    urls = [appliance.url(invocation.device, portal) for portal in range(invocation.paths)]
    preload = shim if invocation.needs_shim else None
    report = suite.run(
        test, urls, sanitize=invocation.sanitize, preload=preload, timeout_seconds=invocation.timeout_seconds
    )
    wanted, why = expected(invocation, test)
    assert appliance.is_running(), appliance.log_text()
    assert report.verdict is wanted, (
        f"{test} on {name}: {report.verdict}, expected {wanted}{f' ({why})' if why else ''}\n"
        + "\n".join(report.reasons)
        + f"\n--- the end of what the test said\n{report.log[-3000:]}\n--- log\n{appliance.log_text()}"
    )


def test_every_test_of_the_suite_is_run_somewhere() -> None:
    packages.require("libiscsi-bin")
    assert set(suite.test_names()) == {test for _, test in CASES}


def test_every_expectation_is_of_a_test_that_is_run() -> None:
    packages.require("libiscsi-bin")
    for entry in expectations():
        pattern = re.compile(f"{entry.invocation}/{entry.test}".replace(".", r"\.").replace("*", ".*"))
        assert any(pattern.fullmatch(f"{name}/{test}") for name, test in CASES), entry
