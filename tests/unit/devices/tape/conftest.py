"""Every test of a drive runs over a cartridge in a directory and over its twin in memory, but for those that look into
the directory or make its storage fail."""

import pytest

from tests.unit.devices.tape import support


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = ["directory"] if metafunc.definition.get_closest_marker("cartridge_directory") else list(support.KINDS)
    metafunc.fixturenames.append("cartridge_kind")
    metafunc.parametrize("cartridge_kind", kinds, indirect=True)


@pytest.fixture(autouse=True)
def cartridge_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(support, "make_files", support.KINDS[request.param])
    return request.param
