"""What a library contains, kept in its state: taken over from tapebay.toml once, changed by verbs and by `apply`.

A row of the database for each device, partition, pool, target, account, zone and remote unit, and what tapebay.toml
declared when it was last applied. The second is what tells a change of the file from a change that a verb made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog
from pydantic import ValidationError

from appliance.failures import Failure, OperatorError
from appliance.library.plan import Plan, compare, row_key
from appliance.settings.content import Content, ContentError, declared_in, settled, with_content
from appliance.settings.problems import problems_of
from appliance.settings.sections import CHANGER, Section
from appliance.settings.settings import Settings
from vlib_images.library.database import content_rows
from vlib_images.library.database.content_rows import StoredContent
from vlib_images.library.database.database import Database

log = structlog.get_logger(__name__)


_KINDS = {"drive": "drives", "disk": "disks"}
_LUN = "automatic_lun"  # a disk has a `lun` of its own, which an operator gave it


class Contents:
    """The content of one library, and the settings that it makes of tapebay.toml (`declared`)."""

    def __init__(self, database: Database, declared: Settings) -> None:
        """Raises OperatorError CONFIGURATION when what is kept cannot be used."""
        self._database = database
        self._declared = declared
        self._writer = _Writer()
        self._settled: tuple[Content, Settings] | None = None  # what was found good last, so that it is looked at once
        self._stored = content_rows.load(database)
        if self._stored.applied is None:
            self._content = self._applied = self._declared_content()
            self._keep()
            log.info("the content of tapebay.toml is taken over; from now on verbs and `tapebay apply` change it")
        else:
            self._content = _read(_documents(self._stored))
            self._applied = _read(self._stored.applied)
        self.settings = self.settings_with(self._content)

    @property
    def content(self) -> Content:
        """What there is."""
        return self._content

    @property
    def applied(self) -> Content:
        """What tapebay.toml declared when it was last applied."""
        return self._applied

    def differences(self) -> Plan:
        """Between tapebay.toml, as it was read, and what there is: what a start of the daemon may carry out. Raises
        OperatorError CONFIGURATION: a secret cannot be had."""
        return compare(self._declared_content(), self._applied, self._content, explicit=False)

    def _declared_content(self) -> Content:
        try:
            return declared_in(self._declared)
        except ContentError as error:
            raise OperatorError(Failure.CONFIGURATION, str(error)) from None

    def checked(self, content: Content) -> Content:
        """With a LUN for every device. Raises OperatorError REFUSED when its parts do not fit together."""
        if self._settled is not None and content is self._settled[0]:
            return content
        if named := list(_still_named(self._content, content)):
            raise OperatorError(Failure.REFUSED, "\n".join(named))
        try:
            self._settled = found, _ = settled(self.settings, content)
        except ContentError as error:
            raise OperatorError(Failure.REFUSED, str(error)) from None
        return found

    def change(self, content: Content, applied: Content | None = None) -> None:
        """Keep another content, durable when this returns. Raises OperatorError as checked() does, OSError; then
        nothing has changed."""
        before = self._content, self._applied
        self._content, self._applied = self.checked(content), applied or self._applied
        try:
            self._keep()
        except BaseException:
            self._content, self._applied = before
            raise
        self.settings = self.settings_with(self._content)

    def _keep(self) -> None:
        after = self._writer.written(self._content, self._applied)
        content_rows.change(self._database, self._stored, after)
        self._stored = after

    def settings_with(self, content: Content) -> Settings:
        """What the settings would be with another content. Raises OperatorError CONFIGURATION."""
        if self._settled is not None and content is self._settled[0]:
            return self._settled[1]
        try:
            return with_content(self._declared, content)
        except ContentError as error:
            message = f"what the library contains does not fit this tapebay.toml:\n{error}"
            raise OperatorError(Failure.CONFIGURATION, message) from None


def _still_named(before: Content, after: Content) -> Iterator[str]:
    """What goes and is still named by what stays, with what to do about it first."""
    devices, users, remotes = (gone(before) - gone(after) for gone in (_devices, _users, _remotes))
    for zone in after.zones:
        first = f"any more then; take it out of the zone first: tapebay zone change {zone.name}"
        for name in sorted(devices.intersection(zone.device_names())):
            yield f"zone {zone.name}: there is no device {name!r} {first} --remove-devices {name}"
        for user in sorted(users.intersection(zone.accounts)):
            yield f"zone {zone.name}: there is no account {user!r} {first} --remove-accounts {user}"
        for name in sorted(remotes.intersection(zone.remotes)):
            others = ",".join(other for other in zone.remotes if other != name)
            yield f"zone {zone.name}: there is no remote unit {name!r} {first} --remotes '{others}'"
    for target in after.targets:
        for lun, name in (target.luns or {}).items():
            if name in devices:
                others = ",".join(f"{lun}={name}" for lun, name in (target.luns or {}).items() if name not in devices)
                yield (
                    f"target {target.iqn}: there is no device {name!r} any more then, which is its LUN {lun}; give it "
                    f"another map first: tapebay target change {target.iqn} --luns {others}"
                )


def _devices(content: Content) -> set[str]:
    drives, disks, partitions = content.drives, content.disks, content.partitions
    return {d.name for d in drives} | {d.name for d in disks} | {p.name for p in partitions}


def _users(content: Content) -> set[str]:
    return {account.user for account in content.accounts}


def _remotes(content: Content) -> set[str]:
    return {remote.name for remote in content.remotes}


class _Writer:
    """Content as rows of JSON documents. A section that is still there has the document that was made of it before: a
    change is mostly of one section among many."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Section, Any]] = {}  # by id(); holds the section, so that nothing else has its id

    def written(self, content: Content, applied: Content) -> StoredContent:
        """A row for each device, partition, target, account and zone. A device's says what it is, and its LUN."""
        known, self._known = self._known, {}

        def document(section: Section) -> Any:
            this = known.get(id(section)) or (section, section.to_json())
            self._known[id(section)] = this
            return this[1]

        devices = {CHANGER: {"kind": CHANGER, **document(content.changer)}}
        devices |= {drive.name: {"kind": "drive", **document(drive)} for drive in content.drives}
        devices |= {disk.name: {"kind": "disk", **document(disk)} for disk in content.disks}
        luns = content.luns
        rows = {
            "devices": {name: {**row, _LUN: luns[name]} if name in luns else row for name, row in devices.items()},
            "targets": {target.iqn: document(target) for target in content.targets},
            "accounts": {row_key(account): document(account) for account in content.accounts},
            "zones": {zone.name: document(zone) for zone in content.zones},
            "partitions": {partition.name: document(partition) for partition in content.partitions},
            "remotes": {remote.name: document(remote) for remote in content.remotes},
            "pools": {pool.name: document(pool) for pool in content.pools},
        }
        return StoredContent(rows, document(applied))


def _documents(stored: StoredContent) -> dict[str, Any]:
    """The document that was taken apart."""
    devices = {name: dict(row) for name, row in stored.rows["devices"].items()}
    luns = {name: row.pop(_LUN) for name, row in devices.items() if _LUN in row}
    kinds = {name: row.pop("kind") for name, row in devices.items()}
    return {
        "changer": devices.get(CHANGER, {}),
        **{field: [devices[n] for n in devices if kinds[n] == kind] for kind, field in _KINDS.items()},
        "targets": list(stored.rows["targets"].values()),
        "accounts": list(stored.rows["accounts"].values()),
        "zones": list(stored.rows["zones"].values()),
        "partitions": list(stored.rows["partitions"].values()),
        "remotes": list(stored.rows["remotes"].values()),
        "pools": list(stored.rows["pools"].values()),
        "luns": luns,
    }


def _read(document: Any) -> Content:
    try:
        return Content.model_validate(document)
    except ValidationError as error:
        lines = "\n".join(problems_of(error, Content))
        raise OperatorError(Failure.CONFIGURATION, f"what the library contains cannot be read:\n{lines}") from None
