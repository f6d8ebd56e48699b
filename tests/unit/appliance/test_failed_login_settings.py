"""How many wrong proofs are looked at is the operator's to say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.library.library import Library, limits_of
from appliance.operations import setup
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorError, InitiatorSession
from tests.support import packages

ACCOUNT = '\n[chap]\n[[chap.accounts]]\nuser = "backup"\nsecret = "a right secret"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))


def served(path: Path, failed_logins: int) -> Library:
    text = path.read_text().replace("\n[chap]\n", ACCOUNT)
    path.write_text(text.replace("# failed_logins = 10", f"failed_logins = {failed_logins}"))
    library = Library.open(config_file.load(path), apply=True)
    library.start()
    return library


@pytest.fixture
def library(path: Path, request: pytest.FixtureRequest) -> Iterator[Library]:
    packages.require("libiscsi7")
    library = served(path, request.param)
    try:
        yield library
    finally:
        library.stop()
        library.close()


def logs_in(library: Library, secret: str) -> bool:
    iqn = library.settings.targets[0].iqn
    try:
        with InitiatorSession(library.bound[0], iqn, credentials=Credentials("backup", secret), timeout_seconds=60):
            return True
    except InitiatorError:
        return False


@pytest.mark.parametrize(("library", "admitted"), [(1, False), (3, True)], indirect=["library"])
def test_as_many_wrong_proofs_as_are_set(library: Library, admitted: bool) -> None:
    assert logs_in(library, "a right secret")
    assert not logs_in(library, "a wrong secret")
    assert logs_in(library, "a right secret") is admitted


def test_the_settings_reach_the_server(path: Path) -> None:
    path.write_text(path.read_text().replace("# failed_login_seconds = 10.0", "failed_login_seconds = 60"))
    limits = limits_of(config_file.load(path))
    assert (limits.failed_logins, limits.failed_login_seconds) == (10, 60.0)
