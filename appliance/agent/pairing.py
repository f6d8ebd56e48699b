"""The appliance that this server is paired with, and the backups that it is to make: /etc/tapebay/agent.toml.

    [appliance]
    url = "https://192.0.2.10:8443"
    token_file = "agent.token"                 # mode 0600; relative paths begin beside this file
    certificate_authority = "authority.pem"    # by default the system's

    [[jobs]]
    name = "nightly"
    paths = ["/srv/data", "/srv/log"]
    to = ["A00001L6", "A00002L6"]
    exclude = ["*.tmp"]
    before = [["psql", "-c", "CHECKPOINT"]]
    incremental = true                         # only what has changed since the backup before; by default all

`tapebay agent pair` writes the first section, once; the jobs are an operator's. A job without `to` is for backups of
several servers (`tapebay backup gather`), which know this one by its host name, or `server` of the first section.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from appliance.agent.backup import AgentJob
from appliance.agent.freeze import LIMIT_SECONDS
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.settings import secrets
from appliance.settings.config_file import ConfigError
from appliance.settings.problems import problems_of
from appliance.settings.sections import Section
from vlib_images.atomic import write_atomically

FILE: Final = Path("/etc/tapebay/agent.toml")
TOKEN_NAME, AUTHORITY_NAME = "agent.token", "authority.pem"
CommandLine = Annotated[list[str], Field(min_length=1)]


class ApplianceSection(Section):
    url: str
    token_file: Path
    certificate_authority: Path | None = None
    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None


class JobSection(Section):
    name: str
    paths: Annotated[list[Path], Field(min_length=1)]
    to: list[str] = []
    exclude: list[str] = []
    before: list[CommandLine] = []
    after: list[CommandLine] = []
    drive: str | None = None
    overwrite: bool = False
    incremental: bool = False
    image: bool = False
    freeze_seconds: Annotated[float, Field(gt=0, le=LIMIT_SECONDS)] = LIMIT_SECONDS
    patience_seconds: Annotated[float, Field(ge=0, le=86400)] = 600.0


class AgentSettings(Section):
    appliance: ApplianceSection
    jobs: list[JobSection] = []

    def job(self, name: str) -> JobSection:
        """Raises OperatorError NOT_FOUND."""
        for job in self.jobs:
            if job.name == name:
                return job
        known = ", ".join(job.name for job in self.jobs) or "none"
        raise OperatorError(Failure.NOT_FOUND, f"there is no job {name} in the agent's file; it has {known}")


def load(path: Path = FILE) -> AgentSettings:
    """Raises ConfigError."""
    try:
        return AgentSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ConfigError(path, list(problems_of(error, AgentSettings))) from None
    except ValueError as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from None
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; pair this server first: tapebay agent pair URL --token-file FILE"
        raise ConfigError(path, [problem]) from None


def job_of(section: JobSection) -> AgentJob:
    """What it says is to be done."""
    return AgentJob(
        section.paths, section.name, section.exclude, section.before, section.after, section.freeze_seconds,
        section.patience_seconds, section.image,
    )  # fmt: skip


def client_of(settings: AgentSettings, path: Path = FILE) -> Client:
    """Of the appliance that this server is paired with. Raises OperatorError."""
    appliance = settings.appliance
    try:
        token = secrets.from_file(path.parent / appliance.token_file)
    except secrets.SecretError as error:
        raise OperatorError(Failure.CONFIGURATION, str(error)) from None
    authority = appliance.certificate_authority
    return Client.at(appliance.url, token, None if authority is None else path.parent / authority)


def pair(url: str, token: str, authority: Path | None, path: Path = FILE) -> dict[str, Any]:
    """Ask the appliance, and remember it; a pairing that is there already stays. What the appliance says of itself.
    Raises OperatorError, OSError; then nothing is written."""
    if path.exists():
        raise OperatorError(Failure.REFUSED, f"{path} is there already; to pair this server anew, move it away first")
    version = Client.at(url, token, authority).call("health")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent / TOKEN_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(token + "\n")
    lines = ["[appliance]", f'url = "{url}"', f'token_file = "{TOKEN_NAME}"']
    if authority is not None:
        shutil.copyfile(authority, path.parent / AUTHORITY_NAME)
        lines.append(f'certificate_authority = "{AUTHORITY_NAME}"')
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return {"config": str(path), "url": url, "appliance": version}
