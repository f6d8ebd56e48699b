"""What can be done to a library: one typed list of verbs, one file a noun. Transports offer them, none adds any.

The file of a noun is imported when one of its verbs is asked for, so that a command does not wait for all the others.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

from appliance.operations.verb import DECLARED, Verb

# The nouns, and the files of this folder that declare their verbs.
NOUNS: Mapping[str, tuple[str, ...]] = {
    "account": ("account",),
    "audit": ("audit",),
    "backup": ("backup", "gathering"),
    "broker": ("broker",),
    "cartridge": ("cartridge", "cartridge_copies"),
    "catalogue": ("catalogue",),
    "changer": ("changer",),
    "configuration": ("configuration",),
    "copies": ("copies",),
    "copy": ("copy",),
    "disk": ("disk",),
    "drive": ("drive",),
    "filelist": ("filelist",),
    "grant": ("request",),
    "health": ("library",),
    "key": ("key",),
    "load": ("robot",),
    "move": ("robot",),
    "partition": ("partition",),
    "pool": ("pool",),
    "remote": ("remote",),
    "request": ("request",),
    "reservation": ("reservation",),
    "restore": ("restore", "restore_in_place"),
    "session": ("session",),
    "shutdown": ("library",),
    "snapshot": ("snapshot",),
    "status": ("library",),
    "target": ("target",),
    "token": ("token",),
    "unload": ("robot",),
    "verify": ("verify",),
    "who": ("who",),
    "zone": ("zone",),
}


class _Verbs(Mapping[str, Verb]):
    """The verbs by name."""

    def __getitem__(self, name: str) -> Verb:
        _import(name.partition(".")[0])
        return DECLARED[name]

    def __iter__(self) -> Iterator[str]:
        for noun in NOUNS:
            _import(noun)
        return iter(list(DECLARED))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _import(noun: str) -> None:
    for file in NOUNS.get(noun, ()):
        import_module(f"{__name__}.{file}")


VERBS: Mapping[str, Verb] = _Verbs()
