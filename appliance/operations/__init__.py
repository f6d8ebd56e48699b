"""What can be done to a library: one typed list of verbs, one file a noun. Transports offer them, none adds any."""

from appliance.operations import cartridge, cartridge_copies, configuration, disk, library, remote, robot, session
from appliance.operations.verb import VERBS

__all__ = ["VERBS", "cartridge", "cartridge_copies", "configuration", "disk", "library", "remote", "robot", "session"]
