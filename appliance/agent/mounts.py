"""What this server has mounted: a small file for each request, so that another command, or one after a crash, can
renew and release it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from appliance.agent.open_iscsi import Way
from appliance.failures import Failure, OperatorError

DEFAULT_FOLDER: Final = Path("/run/tapebay")
FOLDER_VARIABLE: Final = "TAPEBAY_RUN"


@dataclass(frozen=True)
class MountedGrant:
    """One request. target, portal, group: where it is reached, once it is granted. devices: the paths of its devices
    by their names in the library."""

    request: str
    lease_seconds: float
    target: str = ""
    portal: str = ""
    group: int = 1
    devices: dict[str, str] = field(default_factory=dict)

    @property
    def way(self) -> Way | None:
        """To log out and remove what was made; None: nothing was."""
        return Way(self.target, self.portal, self.group, Way.iface_of(self.request)) if self.target else None


class Mounts:
    """All of them, in a folder that a restart of the server empties, as it ends the sessions too."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)

    @classmethod
    def here(cls) -> Self:
        """Those of this server."""
        return cls()

    def keep(self, mount: MountedGrant) -> None:
        """Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(mount.request)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(mount)))
        unfinished.replace(path)

    def forget(self, request: str) -> None:
        """Raises OSError."""
        self._path(request).unlink(missing_ok=True)

    def all(self) -> list[MountedGrant]:
        """Raises OperatorError, OSError."""
        return sorted(self._read(), key=lambda mount: mount.request)

    def find(self, what: str) -> MountedGrant:
        """By its request, or the path of one of its devices, under whatever name. Raises OperatorError NOT_FOUND."""
        for mount in self.all():
            paths = {os.path.realpath(path) for path in mount.devices.values()}
            if what == mount.request or (what.startswith("/") and os.path.realpath(what) in paths):
                return mount
        raise OperatorError(Failure.NOT_FOUND, f"{what} is not mounted on this server; `tapebay requests` lists all")

    def _read(self) -> Iterator[MountedGrant]:
        for path in self.folder.glob("*.json"):
            try:
                yield MountedGrant(**json.loads(path.read_text()))
            except FileNotFoundError:  # released meanwhile
                continue
            except (TypeError, ValueError) as error:
                message = f"{path} cannot be read: {error}; remove it, and its iface: iscsiadm -m iface"
                raise OperatorError(Failure.REFUSED, message) from None

    def _path(self, request: str) -> Path:
        Way.iface_of(request)  # a name that leads nowhere else
        return self.folder / f"{request}.json"
