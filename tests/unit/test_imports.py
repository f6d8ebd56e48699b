"""No module of ours imports itself by way of others: when loaded, for the type checker, or in a function.
import-linter holds the direction between rooms (pyproject.toml); this holds it inside them."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("appliance", "scsi_targets", "vlib_images", "datamover")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def imported_when_loaded(tree: ast.AST) -> set[str]:
    """The names that a module's own statements import: not those of its functions, nor those for the type checker."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & MODULES.keys()) or {node.module}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= imported_when_loaded(node)
    return found & MODULES.keys()


def sorted_modules(imports: dict[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(imports).static_order())


def test_there_is_no_cycle() -> None:
    imports = {name: imported_when_loaded(ast.parse(path.read_text())) - {name} for name, path in MODULES.items()}
    assert "scsi_targets.devices.unit.task" in imports["scsi_targets.devices.unit.logical_unit"]
    assert len(sorted_modules(imports)) == len(MODULES)


def imported_anywhere(tree: ast.AST) -> set[str]:
    """The same with the imports of functions, and with those for the type checker: the whole picture."""
    found = imported_when_loaded(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            found |= imported_when_loaded(ast.Module([*node.body, *getattr(node, "orelse", [])], []))
    return found


def test_there_is_no_cycle_in_the_whole_picture() -> None:
    imports = {name: imported_anywhere(ast.parse(path.read_text())) - {name} for name, path in MODULES.items()}
    assert "scsi_targets.devices.tape.transfer" in imports["scsi_targets.devices.tape.part"]  # for the type checker
    assert "appliance.library.change" in imports["appliance.operations.content"]  # in a function
    assert len(sorted_modules(imports)) == len(MODULES)


def test_a_cycle_would_be_found() -> None:
    with pytest.raises(CycleError):
        sorted_modules({"a": {"b"}, "b": {"c"}, "c": {"a"}})
