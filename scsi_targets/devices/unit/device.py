"""The base of the three device classes: SPC's commands, mode pages, log pages and persistent reservations together."""

from scsi_targets.devices.unit.log_commands import LogCommands
from scsi_targets.devices.unit.mode_commands import ModeCommands
from scsi_targets.devices.unit.persistent_reserve import PersistentReserveCommands


class Device(ModeCommands, LogCommands, PersistentReserveCommands):
    """A logical unit with everything that disks, tape drives and media changers share."""
