"""Every test of a disk runs over an image file and over its twin in memory, but for those that look into the file."""

import pytest

from tests.unit.devices.disk import support


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = ["file"] if metafunc.definition.get_closest_marker("image_file") else list(support.KINDS)
    metafunc.fixturenames.append("image_kind")
    metafunc.parametrize("image_kind", kinds, indirect=True)


@pytest.fixture(autouse=True)
def image_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(support, "make_image", support.KINDS[request.param])
    return request.param
