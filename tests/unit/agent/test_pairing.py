"""Pairing with an appliance, once, and the jobs in the agent's file."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.agent import pairing
from appliance.failures import OperatorError
from appliance.settings.config_file import ConfigError
from tests.interop.hot_site import documented_jobs
from tests.support import certificates
from tests.support.appliance import Appliance
from tests.support.ports import free_port

JOBS = """
[[jobs]]
name = "nightly"
paths = ["/srv/data"]
to = ["TST001L6"]
before = [["psql", "-c", "CHECKPOINT"]]
"""


class Site(Appliance):
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.pair = certificates.make(folder, address="127.0.0.1")
        self.port_of_api = free_port()
        listen = f'listen = "127.0.0.1:{self.port_of_api}"'
        more = f'[api]\n{listen}\ncertificate = "{self.pair.certificate}"\nkey = "{self.pair.key}"\n'
        super().__init__(folder, more=more)
        self.url = f"https://127.0.0.1:{self.port_of_api}"
        self.token: str = self.call("token.create", name="agent", scope="operate")["token"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "library") as running:
        yield running


def test_it_is_paired_once_and_asks_from_then_on(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "agent.toml"
    pairing.pair(site.url, site.token, site.pair.authority, path)
    token = path.parent / pairing.TOKEN_NAME
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert site.token not in path.read_text()
    path.write_text(path.read_text() + JOBS)
    settings = pairing.load(path)
    assert settings.job("nightly").before == [["psql", "-c", "CHECKPOINT"]]
    with pytest.raises(OperatorError, match="there is no job weekly in the agent's file; it has nightly"):
        settings.job("weekly")
    assert pairing.client_of(settings, path).call("disk.list") == []
    with pytest.raises(OperatorError, match="is there already"):
        pairing.pair(site.url, site.token, site.pair.authority, path)
    token.chmod(0o644)
    with pytest.raises(OperatorError, match="can be read by others"):
        pairing.client_of(settings, path)


def test_what_does_not_answer_is_not_paired_with(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "etc" / "agent.toml"
    with pytest.raises(OperatorError, match="token"):
        pairing.pair(site.url, "tapebay_wrong", site.pair.authority, path)
    with pytest.raises(OperatorError):
        pairing.pair(site.url, site.token, None, path)  # nobody whom the system trusts
    with pytest.raises(OperatorError, match="readable"):
        pairing.pair("http://192.0.2.1:80", site.token, None, path)
    assert not path.exists() and not (path.parent / pairing.TOKEN_NAME).exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "appliance: is missing"),
        (
            "[appliance]\nurl = 'https://a:1'\ntoken_file = 't'\n[[jobs]]\nname = 'x'\npaths = []\nto = ['A']",
            "at least 1",
        ),
        ("[appliance]\nurl = 'https://a:1'\ntoken_file = 't'\nsecret = 1", "there is no such setting"),
        ("[appliance", "not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        pairing.load(path)


def test_without_a_file_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tapebay agent pair URL"):
        pairing.load(tmp_path / "agent.toml")


def test_the_documents_examples_are_jobs() -> None:
    """tests/interop/test_hot_backup.py runs them, in a guest with PostgreSQL and SQLite at work."""
    jobs = documented_jobs()
    assert set(jobs) == {"postgresql", "sqlite"}
    appliance = {"url": "https://192.0.2.10:8443", "token_file": "agent.token"}
    settings = pairing.AgentSettings.model_validate({"appliance": appliance, "jobs": list(jobs.values())})
    assert [pairing.job_of(job).name for job in settings.jobs] == ["postgresql", "sqlite"]
