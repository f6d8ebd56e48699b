"""How a dry run looks to people."""

from collections.abc import Iterator
from typing import Any

import typer


def foreseen_lines(foreseen: dict[str, Any]) -> Iterator[str]:
    """What each session would gain and lose, and which cartridges stand in the way."""
    for effect in foreseen["sessions"]:
        who = f"session {effect['session']} of {effect['initiator']} at {effect['target']}"
        yield from (f"{who} gains {each}" for each in effect["gains"])
        yield from (f"{who} loses {each}" for each in effect["loses"])
        yield from (f"{who} sees of {each}" for each in effect["changes"])
        if effect["ends"]:
            yield f"{who} ends: {effect['ends']}"
    yield from (f"refused: {line}" for line in foreseen["refused"])


def said_foreseen(result: dict[str, Any]) -> bool:
    """Print what a dry run found; False: it was none."""
    if result.get("foreseen") is None:
        return False
    lines = list(foreseen_lines(result["foreseen"]))
    typer.echo("\n".join(lines or ["No session would notice, and no cartridge stands in the way."]))
    typer.echo("Nothing was changed.")
    return True
