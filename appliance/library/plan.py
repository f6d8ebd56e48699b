"""What of tapebay.toml is not yet so in the library: three documents compared.

    declared   what tapebay.toml says now
    applied    what it said when it was last applied
    content    what the library contains

What changed from applied to declared is the operator's wish, and is carried out. What differs from applied to content
is what verbs did since; it is drift, said and left alone, field by field. What left the file is removed only when that
is asked for (prune), and stays in `applied` until then. Accounts and zones that a verb removed come back only by an
explicit apply.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from appliance.settings.content import Content
from appliance.settings.sections import ChapAccount, Section
from appliance.settings.units import format_size

_SIZES = ("size", "erase_rate")


@dataclass(frozen=True)
class Plan:
    """changes: what apply would do, a line each; removals: what only prune would, and is not done; drift: what verbs
    did since.

    content, applied: what the library keeps afterwards.
    """

    changes: list[str]
    removals: list[str]
    drift: list[str]
    content: Content
    applied: Content


@dataclass
class _Lists:
    changes: list[str]
    removals: list[str]
    drift: list[str]


SectionRows = dict[str, Section]


def compare(
    declared: Content, applied: Content, content: Content, *, prune: bool = False, explicit: bool = True
) -> Plan:
    """The plan. prune: what left the file is removed. explicit: an operator asked for it, not a start of the daemon."""
    said = _Lists([], [], [])
    kept: dict[str, Any] = {"luns": content.luns}
    applied_now: dict[str, Any] = {"luns": declared.luns}
    for noun, field in _NOUNS.items():
        documents = (_rows(declared, field), _rows(applied, field), _rows(content, field))
        merged, remembered = _merge(noun, documents, said, prune=prune, explicit=explicit)
        if noun in _IN_ORDER:
            merged = _in_order(noun, documents, merged, said)
        single = field == "changer"
        kept[field] = merged["changer"] if single else list(merged.values())
        applied_now[field] = remembered["changer"] if single else list(remembered.values())
    return Plan(said.changes, said.removals, said.drift, Content(**kept), Content(**applied_now))


_NOUNS = {
    "changer": "changer",
    "drive": "drives",
    "partition": "partitions",
    "pool": "pools",
    "disk": "disks",
    "target": "targets",
    "account": "accounts",
    "zone": "zones",
    "remote": "remotes",
}
_WHO_MAY = ("account", "zone")  # rows that let somebody in
_IN_ORDER = ("drive", "account")  # element addresses follow from it; of several accounts the first that matches counts


def _rows(content: Content, field: str) -> SectionRows:
    if field == "changer":
        return {"changer": content.changer}
    return {row_key(row): row for row in getattr(content, field)}


def row_key(row: Any) -> str:
    """What tells a device, a partition, a target, an account or a zone from the others of its kind."""
    if isinstance(row, ChapAccount):
        return f"{row.user} (initiator {row.initiator}, target {row.target})"
    return str(row.iqn if hasattr(row, "iqn") else row.name)


def _merge(
    noun: str, documents: tuple[SectionRows, SectionRows, SectionRows], said: _Lists, *, prune: bool, explicit: bool
) -> tuple[SectionRows, SectionRows]:
    """The rows of one noun afterwards, and those to remember as applied."""
    declared, applied, content = documents
    merged, remembered = dict(content), dict(declared)
    for key in dict.fromkeys([*declared, *applied, *content]):
        wish, before, now = declared.get(key), applied.get(key), content.get(key)
        name = f"{noun} {key}" if noun != "changer" else noun
        if wish is not None:
            row, left = _wished(name, noun, wish, before, now, said, explicit)
            if row is not None:
                merged[key] = row
            if left and before is not None:
                remembered[key] = before
        elif before is not None and now is not None:
            (said.changes if prune else said.removals).append(f"- {name}")
            if prune:
                del merged[key]
            else:
                remembered[key] = before
        elif now is not None:
            said.drift.append(f"{name} was made by a verb; tapebay.toml does not have it")
    return merged, remembered


def _in_order(
    noun: str, documents: tuple[SectionRows, SectionRows, SectionRows], merged: SectionRows, said: _Lists
) -> SectionRows:
    """In the order of the file, if that has changed since it was last applied; what the file has not comes last."""
    declared, applied, content = documents
    if [key for key in declared if key in applied] == [key for key in applied if key in declared]:
        return merged
    ordered = {key: merged[key] for key in [*declared, *merged] if key in merged}
    if [key for key in ordered if key in content] != [key for key in content if key in ordered]:
        said.changes.append(f"~ {noun}s: order {', '.join(content)} -> {', '.join(ordered)}")
    return ordered


def _wished(
    name: str, noun: str, wish: Section, before: Section | None, now: Section | None, said: _Lists, explicit: bool
) -> tuple[Section | None, bool]:
    """What the file has: the row afterwards, and whether the wish waits for an explicit apply."""
    if now is None:
        if before == wish or (before is not None and noun in _WHO_MAY and not explicit):
            said.drift.append(f"{name} was removed by a verb; tapebay.toml still has it")
            return None, before != wish
        said.changes.append(f"+ {name}{_described(wish)}")
        return wish, False
    wanted = [field for field in _fields(wish) if before is None or getattr(wish, field) != getattr(before, field)]
    changed = {field: getattr(wish, field) for field in wanted if getattr(wish, field) != getattr(now, field)}
    said.changes += [f"~ {name}: {text}" for text in _differences(now, wish, changed)]
    if before is not None:
        drifted = [f for f in _fields(wish) if f not in wanted and getattr(now, f) != getattr(before, f)]
        said.drift += [f"{name}: {text} in tapebay.toml" for text in _differences(now, wish, drifted, arrow=", but ")]
    return now.model_copy(update=changed), False


def _fields(row: Section) -> Iterable[str]:
    return type(row).model_fields


def _described(row: Section) -> str:
    """What is set of a new row, but for its name and its secrets."""
    said = [
        f"{field} {_shown(field, getattr(row, field))}"
        for field in row.model_fields_set
        if field not in ("name", "iqn", "user") and not isinstance(getattr(row, field), SecretStr)
    ]
    return f": {', '.join(sorted(said))}" if said else ""


def _differences(now: Section, wish: Section, fields: Iterable[str], arrow: str = " -> ") -> Iterator[str]:
    for field in fields:
        old, new = getattr(now, field), getattr(wish, field)
        if isinstance(old, SecretStr) or isinstance(new, SecretStr):
            yield f"{field} differs"  # never shown
        else:
            yield f"{field} {_shown(field, old)}{arrow}{_shown(field, new)}"


def _shown(field: str, value: object) -> str:
    match value:
        case None:
            return "unset"
        case bool():
            return str(value).lower()
        case int() if field in _SIZES:
            return format_size(value)
        case Mapping():
            return "{" + ", ".join(f"{key} = {item}" for key, item in value.items()) + "}"
    return str(value)
