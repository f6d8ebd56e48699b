"""The annotated tapebay.toml that `tapebay init` writes: every setting with what it does and what it may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.settings.sections import ChangerSettings, DriveSettings


@dataclass(frozen=True, slots=True)
class NewLibrary:
    """What a new library is made of. portal: HOST:PORT; disks: (name, size as text); demo: with cartridges and data."""

    name: str
    portal: str
    advertise: str | None = None
    drives: int = 2
    drive_model: str = DriveSettings.model_fields["model"].default
    changer_model: str = ChangerSettings.model_fields["model"].default
    slots: int = ChangerSettings.model_fields["slots"].default
    import_export: int = ChangerSettings.model_fields["import_export"].default
    disks: Sequence[tuple[str, str]] = ()
    demo: bool = False

    @property
    def iqn(self) -> str:
        return f"iqn.2026-11.io.tapebay:{self.name}"


def render(plan: NewLibrary) -> str:
    """The file's text; it reads back as the plan says, everything else at its default."""
    parts = [_library(plan), _portals(plan), _target(plan), _changer(plan), _drives(plan), _disks(plan)]
    return "\n".join([*parts, _ACCESS, _remotes(plan), _REST])


def _library(plan: NewLibrary) -> str:
    return f"""\
# A Tapebay library. `tapebay serve --config THIS-FILE` serves it. No program changes this file; after you did:
# `tapebay plan` says what is new, `tapebay apply` (or `tapebay serve --apply`) carries it out.
# Relative paths start at the directory of this file. Sizes: "256 MiB", "2.5 TB" or a number of bytes.
# A line that begins with '#' shows a setting with its default, or an example.

[library]
name = "{plan.name}"                 # shown by `tapebay status`
# cartridges = "cartridges"          # a directory for each cartridge, named by its barcode
# disks = "disks"                    # disk images that [[disks]] does not place elsewhere
# state = "state"                    # where cartridges are, reservations, saved mode pages, serial numbers
# control_socket = "tapebay.sock"    # how the command line reaches the daemon; mode 0660, so its group may operate
"""


def _portals(plan: NewLibrary) -> str:
    advertise = f'advertise = "{plan.advertise}"' if plan.advertise else '# advertise = "192.0.2.10:3260"'
    return f"""\
# Where initiators connect; one [[portals]] for each address, "0.0.0.0" for all of IPv4, "[::]" for all of IPv6.
[[portals]]
listen = "{plan.portal}"
{advertise}    # what discovery answers when initiators reach this portal by another address (NAT, container)
# group = 1                            # portal group tag, 0 to 65535
"""


def _target(plan: NewLibrary) -> str:
    return f"""\
# What initiators log in to. Without `luns` it holds the changer at LUN 0, the drives from 1, then the disks.
[[targets]]
iqn = "{plan.iqn}"
# initiators = ["*"]                   # who sees it: iSCSI names, '*' and '?' match any characters
# luns = {{ 0 = "drive0", 1 = "drive1" }}
"""


def _changer(plan: NewLibrary) -> str:
    return f"""\
# The robot and its slots. The model fixes the names in INQUIRY data and the element addresses.
[changer]
model = "{plan.changer_model}"
slots = {plan.slots}
import_export = {plan.import_export}
# serial = "TBL0000001"                # 6 to 32 of A-Z and 0-9; by default made from the library's own identity
"""


def _drives(plan: NewLibrary) -> str:
    heading = "# The tape drives, in the order of their element addresses.\n"
    return heading + "\n".join(
        f"""\
[[drives]]
name = "drive{index}"
model = "{plan.drive_model}"
# serial = "TBD000000{index}"
# compression = false                  # until an initiator decides (`mt compression 1`)
# compression_level = 1                # of zstd, 1 to 19: smaller and slower
"""
        for index in range(plan.drives)
    )


def _disks(plan: NewLibrary) -> str:
    heading = "# Disks. `tapebay disk create` makes more, which need no section here.\n"
    if not plan.disks:
        return heading + "\n".join(f"# {line}".rstrip() for line in disk_section("demo", "256 MiB").splitlines()) + "\n"
    return heading + "\n".join(disk_section(name, size) for name, size in plan.disks)


def disk_section(name: str, size: str) -> str:
    """One [[disks]] section; settings at their defaults are shown as comments."""
    return f"""\
[[disks]]
name = "{name}"
size = "{size}"
# image = "disks/{name}.img"
# block_size = 512                     # 512 or 4096
# physical_block_size = 4096           # what initiators align to; by default block_size
# read_only = false
# removable = false                    # initiators may eject it
# read_zeros = true                    # unmapped blocks read as zeros; false promises nothing
# erase_rate = "200 MiB"               # SANITIZE and FORMAT UNIT write no more in a second
# serial = "TBK0000001"
# lun = 9                              # fixed LUN; by default the next free one
"""


def _remotes(plan: NewLibrary) -> str:
    return f"""\
# Disks and tape drives of other iSCSI targets, for copies only. docs/extended-copy.md explains them.
# [[remotes]]
# name = "array"
# address = "iscsi://192.0.2.7:3260/iqn.2026-01.org.example:array/1"
# target = "{plan.iqn}"   # of this library, whose sessions may copy it; needed where it has several
# user = "mover"                       # where the other target asks for CHAP
# secret = "secret-of-mover"           # or secret_file, secret_environment, secret_command, as for an account
# initiator = "iqn.2026-11.io.tapebay:copy-manager"   # our name there
"""


_ACCESS = """\
# Partitions: parts of the library that are whole ones to who sees them, each with a media changer of that name. Then
# there is no `changer` of the whole, and what is in no partition is the operators' only. docs/sharing.md explains them.
# [[partitions]]
# name = "payroll"
# slots = "1-10"                       # of the library, by number: "1-10,15"
# import_export = ""                   # of the library, by number: "1"
# drives = ["drive0"]
# barcodes = "*"                       # of the cartridges that may be in it: "PAY*,CLN*"
# model = "STK L700"                   # what it presents itself as; by default what the library does
# serial = "TBP0000001"                # by default made from the library's own identity

# Pools: cartridges that belong together. A request takes blank cartridges of a pool, a token may be for a pool only. A
# cartridge is in one pool at most. docs/broker.md explains them.
# [[pools]]
# name = "databases"
# barcodes = ""                        # patterns of the cartridges that are in it: "DB*"
# cartridges = []                      # more of them, by name: ["A00001L6"]

# Who may log in. Without accounts anyone whom `initiators` names may; with accounts, only who has one.
# Use secrets of 12 to 16 characters: Microsoft's initiator takes no others.
[chap]
# discovery = false                    # ask for CHAP in discovery sessions too
#
# [[chap.accounts]]
# initiator = "*"                      # for which initiators and targets; one may have several accounts
# target = "*"
# user = "backup"
# secret = "at-least-12-chars"         # or, so that it does not stand here, one of
#   secret_file = "backup.secret"      #   its first line; nobody but its owner may read it (mode 0600)
#   secret_environment = "BACKUP"      #   a variable
#   secret_command = ["pass", "show", "backup"]   # the first line that it prints
# mutual_user = "tapebay"              # with these two, the target proves itself as well
# mutual_secret = "another-secret"     # or mutual_secret_file, mutual_secret_environment, mutual_secret_command

# Who sees what. Without zones every initiator that a target admits sees all of its devices; as soon as there is one,
# nobody sees what no zone gives it. docs/sharing.md explains zones, partitions and reservations.
# [[zones]]
# name = "payroll"
# accounts = ["backup"]                # CHAP users
# initiators = []                      # names of initiators without an account; '*' and '?' match any characters
# devices = ["payroll", "drive0"]      # they keep the LUNs that they have in the target ...
# luns = { 1 = "drive1" }                # ... but for these, which have others in this zone
# networks = ["192.0.2.0/24"]          # only from there
# portal_groups = [1]                  # only by portals of these groups
# remotes = []                         # units of other targets that its copies may reach
"""

_REST = """\
# Drives by request: with a gate, `tapebay request create` grants a drive with a volume to one server.
# [gate]
# target = "iqn.2026-11.io.tapebay:gate"   # the target that keys of grants open; no other target shows it
# groups = { fast = ["drive0"] }           # drives that a request may ask for by one name
# key_seconds = 900                    # for how long a key may be shown for the first time
# broker_outage_seconds = 86400        # for how long live grants go on while the broker is stopped

# The API for applications on TCP; tokens open it (`tapebay token create`). Without TLS only on a loopback address.
# [api]
# listen = "127.0.0.1:8443"            # "0.0.0.0:8443" with:
# certificate = "api.crt"              # PEM: its own certificate, then those that signed it
# key = "api.key"                      # PEM, mode 0600

# What snapshots of disks save of what is overwritten meanwhile. docs/snapshots.md explains them.
[snapshots]
# directory = "snapshots"              # of no other use: what is left in it goes at the next start
# budget = "10 GiB"                    # for one snapshot; by default a fifth of its disks, half of what is free at most

[limits]
# sessions = 256                       # more are refused at login
# buffer_memory = "512 MiB"            # for the payload of all commands together
# connection_memory = "64 MiB"         # ... and of one connection
# command_window = 128                 # commands that one session may have outstanding
# login_seconds = 15.0                 # a login that takes longer is closed
# send_seconds = 60.0                  # so is a session that does not read what it asked for
# failed_logins = 10                   # wrong CHAP proofs of an address, or for an account, at once ...
# failed_login_seconds = 10.0          # ... of which one is forgiven after so long
# copy_rate = "200 MiB"                # each EXTENDED COPY moves no more in a second

[logging]
# level = "info"                       # debug, info, warning or error
# format = "auto"                      # auto: console on a terminal, else json
"""
