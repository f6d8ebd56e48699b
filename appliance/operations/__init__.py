"""What can be done to a library: one typed list of verbs, one file a noun. Transports offer them, none adds any."""

from appliance.operations import (
    account,
    cartridge,
    cartridge_copies,
    changer,
    configuration,
    copies,
    disk,
    drive,
    library,
    remote,
    request,
    reservation,
    robot,
    session,
    target,
    who,
    zone,
)
from appliance.operations.verb import VERBS

__all__ = [
    "VERBS",
    "account",
    "cartridge",
    "cartridge_copies",
    "changer",
    "configuration",
    "copies",
    "disk",
    "drive",
    "library",
    "remote",
    "request",
    "reservation",
    "robot",
    "session",
    "target",
    "who",
    "zone",
]
