"""Where a logical unit of another iSCSI target is, as an operator writes it: iscsi://HOST[:PORT]/IQN/LUN."""

import re
from typing import NamedTuple

from appliance.settings.units import parse_address

_ADDRESS = re.compile(r"iscsi://(?P<portal>[^/]+)/(?P<target>[^/]+)/(?P<lun>\d{1,5})")
DEFAULT_PORT = 3260


class RemoteLocation(NamedTuple):
    """portal: HOST:PORT. str() is the address in full."""

    portal: str
    target_name: str
    lun: int

    def __str__(self) -> str:
        return f"iscsi://{self.portal}/{self.target_name}/{self.lun}"


def parse_remote_address(text: str) -> RemoteLocation:
    """Raises ValueError that says how to write it."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no address; write iscsi://HOST:{DEFAULT_PORT}/IQN/LUN")
    portal = found["portal"] if re.search(r":\d+$", found["portal"]) else f"{found['portal']}:{DEFAULT_PORT}"
    parse_address(portal)
    return RemoteLocation(portal, found["target"].lower(), int(found["lun"]))
