"""The documents name what there is, and nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.main import get_command

from appliance.cli.app import app
from appliance.failures import Failure
from appliance.settings.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those of its sections, whether single or in lists."""
    found = [model]
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind)
    return found


def commands(group: Any = None, prefix: str = "") -> set[str]:
    """The names of all commands, those of groups after their group's."""
    group = group or get_command(app)
    if not isinstance(group, TyperGroup):
        return {prefix.rstrip()}
    context: Any = None
    return {
        name
        for word in group.list_commands(context)
        for name in commands(group.get_command(context, word), f"{prefix}{word} ")
    }


def test_every_setting_is_explained() -> None:
    text = read("docs/configuration.md")
    named = {word.rpartition(".")[2] for word in re.findall(r"`([a-z_.]+)`", text)}
    settings = {name for model in sections(Settings)[1:] for name in model.model_fields} - {"accounts"}
    assert settings <= named, settings - named


def test_every_command_is_explained() -> None:
    text = read("docs/cli.md")
    for name in commands():
        group, _, command = name.rpartition(" ")
        pattern = rf"`tapebay {name}\b" if not group else rf"`tapebay {group}\b.*\b{command}\b"
        assert re.search(pattern, text), f"docs/cli.md does not name {name}"


def test_every_exit_status_is_explained() -> None:
    text = read("docs/cli.md")
    for failure in Failure:
        assert f"| {failure.exit_status} | `{failure.code}` |" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(document: Path) -> None:
    known = commands()
    named = r"(?:^|[`/ ])tapebay((?: (?!tapebay)[a-z][a-z-]*){1,2})"
    for words in re.findall(named, document.read_text(), re.MULTILINE):
        first, *rest = words.split()
        is_group = any(name.startswith(f"{first} ") for name in known)
        name = f"{first} {rest[0]}" if is_group and rest else first
        assert name in known or (is_group and not rest), f"{document.name}: tapebay {words.strip()}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target
