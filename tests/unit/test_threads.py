"""Every thread has a name, and stands in the table of docs/architecture.md: no thread that nobody knows of."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("datamover", "vlib_images", "scsi_targets", "appliance")
NAMED_BY_WHOEVER_MAKES_IT: Final = {  # the name is a parameter; these are its values
    "scsi_targets/devices/unit/task_set.py": ["COMMAND NAME", "worker NAME"],
    "appliance/web/bridge.py": ["api verb"],
    "appliance/control/http_server.py": ["control", "api"],
    "appliance/lasting_thread.py": ["broker", "broker watch", "api", "api watch"],
    # In memory, as tests use it; the engine's names for the same.
    "vlib_images/disk/snapshot_saver.py": ["snapshot read", "snapshot write"],
}


def threads() -> Iterator[tuple[str, ast.expr | None]]:
    """Where each is made, and its name."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("threading.Thread", "Thread"):
                names = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
                yield str(path.relative_to(ROOT)), names[0] if names else None


def table() -> set[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = text.partition("\n## Threads\n")[2].splitlines()
    return {name for row in rows for name in re.findall("`([^`]+)`", row.split("|")[1] if row.startswith("|") else "")}


def test_every_thread_has_a_name_that_the_table_has() -> None:
    known = table()
    made = list(threads())
    assert len(made) > 15
    for where, name in made:
        assert name is not None, f"{where}: a thread without a name"
        for each in NAMED_BY_WHOEVER_MAKES_IT.get(where) or [in_table(name)]:
            assert each in known, f"{where}: {ast.unparse(name)} is not in the table"
    engine = {
        name
        for path in (ROOT / "datamover" / "engine").rglob("*.c")
        for name in re.findall(r'(?:setname_np\(thread, |start_thread\(saver, \w+, )"([^"]+)"', path.read_text())
    }
    assert engine == {"writeback", "snapshot read", "snapshot write"} <= known


def in_table(name: ast.expr) -> str:
    """With words in capitals for what differs."""
    if isinstance(name, ast.Constant):
        return str(name.value)
    assert isinstance(name, ast.JoinedStr), f"{ast.unparse(name)} says nothing here"
    words = []
    for part in name.values:
        if isinstance(part, ast.FormattedValue):
            words.append(MEANING[ast.unparse(part.value)])
        else:
            words.append(str(ast.literal_eval(part)))
    return "".join(words)


MEANING: Final = {
    "self._name": "NAME",
    "job.verb.name": "NAME",
    "backup.number": "NUMBER",
    "plan.kind.value": "KIND",
    "image.name": "IMAGE",
}
