"""One name means one thing in the whole house: no class or type has a name that another one has elsewhere."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("datamover", "vlib_images", "scsi_targets", "appliance")

TWICE: Final = {
    # The standards themselves give these twice; they are written with their module, ssc.Read6 and sbc.Read6.
    "Read6": {"scsi_targets.t10.ssc", "scsi_targets.t10.sbc"},
    "Write6": {"scsi_targets.t10.ssc", "scsi_targets.t10.sbc"},
    "DeviceSpecificParameter": {"scsi_targets.t10.ssc_pages", "scsi_targets.t10.sbc_pages"},
    # SPC's FORMAT of an attribute both times: neither t10 nor what lies on disk knows the other.
    "AttributeFormat": {"scsi_targets.t10.mam", "vlib_images.cartridge.mam"},
}


def test_no_class_has_the_name_of_another() -> None:
    where = defaultdict[str, set[str]](set)
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in defined(ast.parse(path.read_text())):
            where[name].add(module)
    assert len(where) > 1000
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == TWICE


def defined(tree: ast.Module) -> Iterator[str]:
    """Public classes, aliases of types and type variables. What Annotated[...] says of a parameter is none."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.AnnAssign):
            names = [node.target.id] if isinstance(node.target, ast.Name) else []
        elif isinstance(node, ast.Assign) and not is_annotated(node.value):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if name[0].isupper() and not name.replace("_", "").isupper())


def is_annotated(value: ast.expr) -> bool:
    return isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id == "Annotated"


def test_what_is_looked_for_is_found() -> None:
    text = """
class Public: ...
class _Private: ...
Alias: TypeAlias = int
Variable = TypeVar("Variable")
CONSTANT = 1
Parameter = Annotated[str, "what it is"]
"""
    assert list(defined(ast.parse(text))) == ["Public", "Alias", "Variable"]
