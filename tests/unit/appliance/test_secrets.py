"""Secrets of accounts: from files, the environment and commands; never shown, never in arguments."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.settings import config_file, secrets
from appliance.settings.config_file import ConfigError
from appliance.settings.secrets import SecretError
from tests.unit.appliance.offline import offline
from tests.unit.appliance.test_cli import tapebay

SECRET, OTHER = "twelve chars", "other twelve"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))


def kept(path: Path, text: str = f"{SECRET}\nsecond line\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def stored(config: Path) -> list[dict[str, Any]]:
    with LibraryFiles.open(config_file.load(config)) as files:
        return files.contents.content.to_json()["accounts"]


def declare(config: Path, lines: str) -> None:
    config.write_text(f'{config.read_text()}\n[[chap.accounts]]\nuser = "backup"\n{lines}\n')


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    assert secrets.from_file(kept(tmp_path / "secret")) == SECRET
    for mode in (0o640, 0o604, 0o620):
        with pytest.raises(SecretError, match=r"can be read by others .*: chmod 600"):
            secrets.from_file(kept(tmp_path / "secret", mode=mode))
    for text in ("", "\n" + SECRET):
        with pytest.raises(SecretError, match="no secret in its first line"):
            secrets.from_file(kept(tmp_path / "empty", text))
    with pytest.raises(SecretError, match="cannot be read: No such file"):
        secrets.from_file(tmp_path / "missing")


def test_commands_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert secrets.from_command(["printf", f"{SECRET}\r\nmore"]) == SECRET
    monkeypatch.setenv("TAPEBAY_TEST_SECRET", SECRET)
    assert secrets.from_environment("TAPEBAY_TEST_SECRET") == SECRET
    for words, problem in (
        (["false"], "false ended with status 1"),
        (["true"], "no secret"),
        (["no-such-command"], "cannot be run"),
        ([], "no words"),
    ):
        with pytest.raises(SecretError, match=problem):
            secrets.from_command(words)
    with pytest.raises(SecretError, match="TAPEBAY_TEST_NONE is not set"):
        secrets.from_environment("TAPEBAY_TEST_NONE")


def test_the_file_says_where_secrets_are(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(config.parent / "secret")
    monkeypatch.setenv("TAPEBAY_TEST_SECRET", OTHER)
    declare(config, 'secret_file = "secret"\nmutual_user = "us"\nmutual_secret_environment = "TAPEBAY_TEST_SECRET"')
    applied = offline(config, "configuration.apply")
    assert "unset" not in str(applied)
    assert SECRET not in str(applied) and OTHER not in str(applied)
    assert stored(config) == [
        {"user": "backup", "secret": SECRET, "mutual_user": "us", "mutual_secret": OTHER},
    ]
    assert offline(config, "configuration.apply")["changes"] == []
    kept(config.parent / "secret", "changed to this\n")
    assert offline(config, "configuration.plan")["changes"] == [
        "~ account backup (initiator *, target *): secret differs"
    ]
    assert SECRET not in offline(config, "configuration.show")["toml"]


def test_what_cannot_be_had_is_said_and_changes_nothing(config: Path) -> None:
    declare(config, 'secret_command = ["false"]')
    with pytest.raises(OperatorError, match="user backup: false ended with status 1") as caught:
        offline(config, "configuration.apply")
    assert caught.value.failure is Failure.CONFIGURATION
    assert offline(config, "account.list") == []


def test_a_secret_that_is_too_short_is_not_shown(config: Path) -> None:
    kept(config.parent / "secret", "tooshort\n")
    declare(config, 'secret_file = "secret"')
    with pytest.raises(OperatorError, match="user backup: secret: must have at least 12 characters, not this"):
        offline(config, "configuration.apply")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("", "give one of secret, secret_file"),
        ('secret_file = "a"\nsecret_environment = "B"', "give one of secret, secret_file"),
        ('secret = "twelve chars"\nmutual_secret_file = "a"', "needs both mutual_user and mutual_secret"),
        ('secret = "twelve chars"\nmutual_user = "us"', "needs both mutual_user and mutual_secret"),
    ],
)
def test_a_secret_has_one_place(config: Path, lines: str, problem: str) -> None:
    declare(config, lines)
    with pytest.raises(ConfigError, match=problem):
        config_file.load(config)


def test_the_command_line_takes_a_place_and_no_secret(config: Path, tmp_path: Path) -> None:
    file = kept(tmp_path / "secret")
    options = ("--config", config)
    os.environ["TAPEBAY_TEST_SECRET"] = OTHER
    try:
        made = tapebay(
            "account", "create", "backup", "--secret-file", file, "--mutual-user", "us",
            "--mutual-secret-environment", "TAPEBAY_TEST_SECRET", *options,
        )  # fmt: skip
    finally:
        del os.environ["TAPEBAY_TEST_SECRET"]
    assert made.exit_code == 0, made.stderr
    assert SECRET not in made.stdout
    assert [(one["secret"], one["mutual_secret"]) for one in stored(config)] == [(SECRET, OTHER)]
    changed = tapebay("account", "change", "backup", "--secret-command", f"printf '{OTHER}'", *options, "--json")
    assert json.loads(changed.stdout)["mutual"] is False
    assert [(one["secret"], one.get("mutual_secret"), one.get("mutual_user")) for one in stored(config)] == [
        (OTHER, None, None)
    ]
    file.chmod(0o644)
    refused = tapebay("account", "change", "backup", "--secret-file", file, *options)
    assert (refused.exit_code, "can be read by others" in refused.stderr) == (1, True)
    twice = tapebay("account", "change", "backup", "--secret-file", file, "--secret-command", "true", *options)
    assert twice.exit_code == Failure.USAGE.exit_status
    assert offline(config, "account.show", user="backup")["mutual"] is False
