"""The content of a library as a tapebay.toml would declare it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from appliance.settings.content import Content
from appliance.settings.units import format_size

_SECTIONS = {
    "drives": "[[drives]]",
    "partitions": "[[partitions]]",
    "pools": "[[pools]]",
    "disks": "[[disks]]",
    "targets": "[[targets]]",
    "accounts": "[[chap.accounts]]",
    "zones": "[[zones]]",
    "remotes": "[[remotes]]",
}
_SIZES = ("size", "erase_rate")


def content_as_toml(content: Content) -> str:
    """Text that parses as the content does, but for secrets, which are shown as stars."""
    document = content.model_dump(mode="json", exclude_defaults=True)
    lines = ["[changer]", *_settings(document.get("changer", {}))]
    for field, heading in _SECTIONS.items():
        for row in document.get(field, []):
            lines += ["", heading, *_settings(row)]
    return "\n".join([*lines, ""])


def _settings(row: Mapping[str, Any]) -> Iterable[str]:
    return [f"{name} = {_value(name, value)}" for name, value in row.items() if value is not None]


def _value(name: str, value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() if name in _SIZES and _exactly(value):
            return json.dumps(format_size(value))
        case Mapping():
            return "{ " + ", ".join(f"{key} = {_value(key, item)}" for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(_value(name, item) for item in value) + "]"
    return json.dumps(value)


def _exactly(length_bytes: int) -> bool:
    from appliance.settings.units import parse_size

    return parse_size(format_size(length_bytes)) == length_bytes
