"""What the program imports is what its installation brings: the tests' own packages must not stand in for any of it."""

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("appliance", "datamover", "scsi_targets", "vlib_images")
NAMES = {"prometheus_client": "prometheus-client", "typing_extensions": "pydantic", "pydantic_core": "pydantic",
         "starlette": "fastapi", "h11": "uvicorn"}  # fmt: skip


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - set(OURS)


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["agent"]]
    packages = {line.partition(">")[0].partition("[")[0].lower() for line in declared}
    wanted = {name for folder in OURS for path in (ROOT / folder).rglob("*.py") for name in imported(path)}
    assert {NAMES.get(name, name) for name in wanted} <= packages
