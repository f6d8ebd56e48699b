"""The backups of a served library: begun, resumed, cancelled; each that runs has a thread."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from appliance.backup.archive import VolumeTooSmall
from appliance.backup.catalogue import Catalogue, CatalogueDamaged, Kept
from appliance.backup.chain import Chain, Link
from appliance.backup.content import ChangedSince
from appliance.backup.entries import Kind
from appliance.backup.faults import words_of
from appliance.backup.filesystems.reader import NotReadable
from appliance.backup.gathering import Gatherings
from appliance.backup.holdings import Holdings
from appliance.backup.house import BackupLibrary
from appliance.backup.index import BadIndex
from appliance.backup.job import BackupCancelled, BackupJob
from appliance.backup.kept_drives import KeptDrives
from appliance.backup.listing import ListRefused
from appliance.backup.progress import BackupProgress, renewing
from appliance.backup.rebuild import Index, best
from appliance.backup.records import Backup, Backups, BackupState, BackupStateError
from appliance.backup.restore import RestoreTarget, restore_file
from appliance.backup.sources import Sources, SourceTotals, StillDisk
from appliance.backup.verify import Verified, verify_disks, verify_tapes
from appliance.backup.volume import MountedDrive
from appliance.failures import Failure, OperatorError, explained
from appliance.processor_time import processor_seconds
from scsi_targets.client.tape_stream import StreamFailed
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.unit.local_session import Aborted, Stopped
from scsi_targets.devices.unit.principal import Principal
from vlib_images.library.actor import OPERATOR, acting_as
from vlib_images.library.database.database import Database
from vlib_images.library.elements import ElementType

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 30.0
READER: Final = Principal.initiator("iqn.2026-01.io.tapebay:reader")  # who reads tapes, and writes what is restored
MOST_NAMED: Final = 1000
# What ends a backup with a reason for an operator; anything else is a fault of ours, and the log has where.
EXPECTED: Final = (
    OperatorError, NotReadable, ChangedSince, StreamFailed, CommandFailed, Aborted, VolumeTooSmall, CatalogueDamaged,
    ListRefused, OSError,
)  # fmt: skip


class BackupService:
    """directory: of the catalogues."""

    def __init__(self, house: BackupLibrary, database: Database, directory: Path) -> None:
        """Raises StateDamaged, OSError."""
        self.records = Backups(database)
        self.directory = directory
        self._house = house
        self.holdings = Holdings(
            self.records, lambda backup: Catalogue.open(self.path_of(backup)), lambda one: one in house.inventory
        )
        self._lock = threading.Lock()
        self._jobs: dict[int, BackupJob] = {}
        self._threads: dict[int, threading.Thread] = {}
        self._drives: dict[object, str] = {}  # which backup, or other user, has which
        self.gatherings = Gatherings()
        self.kept_drives = KeptDrives(self.drive_for)
        self._last: dict[int, BackupProgress] = {}  # of those that have ended in this process

    def stop(self) -> None:
        """Those that run end at their last checkpoint, and can be resumed."""
        with self._lock:
            jobs, threads = list(self._jobs.values()), list(self._threads.values())
        for job in jobs:
            job.stopping.set()
            job.cancelled.set()
        self.kept_drives.close()
        for thread in threads:
            thread.join(STOP_SECONDS)

    # ---- what an operator does -------------------------------------------------------------------------------------

    def begin(
        self, disks: Sequence[str], cartridges: Sequence[str], *, incremental: bool = False, since: int | None = None,
        **options: Any,
    ) -> Backup:  # fmt: skip
        """A new backup, which runs when this returns. incremental: of what has changed since the newest of the same
        files; since: or since this one. Raises OperatorError, NoSuchBackup, OSError."""
        self.check(cartridges, options.get("drive"), disks)
        if incremental or since is not None:
            options |= self._followed(tuple(disks), since, options)
            if options.get("overwrite"):
                self.holdings.refuse_bases(options.get("since"), cartridges)
        identifier = uuid.uuid4().hex
        with self.records.changing:
            backup = self.records.add(identifier, tuple(disks), tuple(cartridges), **options)
            facts = {
                "identifier": identifier, "disks": list(disks), "created_at": backup.created_at,
                "library": self._house.name,
            }  # fmt: skip
            try:
                catalogue = Catalogue.create(self.path_of(backup), facts)
            except OSError as error:
                self.records.step(backup.number, BackupState.FAILED, reason=str(error))
                self.forget(backup.number)
                raise OperatorError(Failure.REFUSED, f"a backup cannot begin: {error}") from error
            return self._start(backup, catalogue)

    def resume(self, number: int, cartridges: Sequence[str], drive: str | None, *, overwrite: bool) -> Backup:
        """Goes on at the last checkpoint, with more cartridges where some are given. Raises OperatorError,
        BackupStateError, NoSuchBackup, CatalogueDamaged, OSError."""
        self.check(cartridges, drive)
        with self.records.changing:
            backup = self.records.get(number)
            if overwrite:
                self.holdings.refuse_bases(backup.since, cartridges)
            catalogue = Catalogue.open(self.path_of(backup))
            more = tuple(barcode for barcode in cartridges if barcode not in backup.cartridges)
            try:
                backup = self.records.step(
                    number,
                    BackupState.RUNNING,
                    reason="",
                    cartridges=backup.cartridges + more,
                    drive=drive or backup.drive,
                    overwrite=overwrite or backup.overwrite,
                )
            except BaseException:
                catalogue.close()
                raise
            return self._start(backup, catalogue)

    def cancel(self, number: int) -> Backup:
        """Ends at the last checkpoint. Raises BackupStateError, NoSuchBackup."""
        with self.records.changing:
            backup, job = self.records.get(number), self.job(number)
            if job is None:
                raise BackupStateError(f"backup {number} does not run; it is {backup.state.value}")
            job.cancelled.set()
            self.wait(number, STOP_SECONDS)
            return self.records.get(number)

    def forget(self, number: int) -> Backup:
        """One that does not run, with its catalogue; its cartridges stay as they are. Raises BackupStateError,
        NoSuchBackup, OSError."""
        with self.records.changing:
            backup = self.records.get(number)
            if later := [other.number for other in self.records.all() if other.since == number]:
                message = f"backup {later[0]} is an increment that rests on backup {number}; delete that one first"
                raise BackupStateError(message)
            self.records.forget(number)
            self.path_of(backup).unlink(missing_ok=True)
            return backup

    def wait(self, number: int, seconds: float) -> bool:
        """Whether it has ended by then. Who holds records.changing lets it go meanwhile."""
        job = self.job(number)
        with self.records.changing:
            return self.records.changing.wait_for(lambda: job is None or self.job(number) is not job, seconds)

    def job(self, number: int) -> BackupJob | None:
        """What runs, to be looked at."""
        with self._lock:
            return self._jobs.get(number)

    def last_progress(self, number: int) -> BackupProgress | None:
        """How far one was that has ended since the daemon's start."""
        with self._lock:
            return self._last.get(number)

    def path_of(self, backup: Backup) -> Path:
        """Where its catalogue is."""
        return self.directory / f"{backup.identifier}.db"

    def _followed(self, disks: tuple[str, ...], since: int | None, options: dict[str, Any]) -> dict[str, Any]:
        """Which backup an increment follows, or why it is a full one. Raises OperatorError, NoSuchBackup."""

        def suits(backup: Backup) -> bool:
            same = backup.disks == disks and backup.raw == options.get("raw", False)
            return same and backup.selection == options.get("selection", "") and backup.state is BackupState.DONE

        if since is not None and not suits(self.records.get(since)):
            message = f"backup {since} is not done, or of other disks or files; an increment follows one of the same"
            raise OperatorError(Failure.REFUSED, message)
        found = [self.records.get(since)] if since is not None else [*filter(suits, self.records.all())]
        if not found:
            return {"incremental": True, "full_because": "there is no backup of the same files that is done"}
        if missing := self.holdings.missing(found[-1]):
            if since is not None:
                raise OperatorError(Failure.REFUSED, missing)
            return {"incremental": True, "full_because": missing}
        return {"incremental": True, "since": found[-1].number}

    def check(self, cartridges: Sequence[str], drive: str | None, disks: Sequence[str] = ()) -> None:
        """Whether what somebody names is there, before anything is begun with it. Raises OperatorError NOT_FOUND,
        USAGE: a cartridge is named twice."""
        house = self._house
        named = [("cartridge", name, name in house.inventory) for name in cartridges]
        named += [("drive", name, name in house.drive_addresses()) for name in [drive] if name is not None]
        named += [("disk", name, name in house.disks()) for name in disks]
        for noun, name, is_there in named:
            if not is_there:
                raise OperatorError(Failure.NOT_FOUND, f"there is no {noun} {name}; see: tapebay {noun} list")
        if len(set(cartridges)) != len(cartridges):
            raise OperatorError(Failure.USAGE, "a cartridge is named twice")

    # ---- tapes that are read ---------------------------------------------------------------------------------------

    @contextmanager
    def drive_for(self, barcode: str, drive: str | None, units: Sequence[BlockDevice] = ()) -> Iterator[MountedDrive]:
        """A drive for whoever reads cartridges, of which this is the first, and copies to units. Raises
        OperatorError."""
        user = object()
        name = self._take_drive(user, drive, barcode)
        try:
            with MountedDrive(self._house, name, units, READER.name, lambda: False) as mounted:
                yield mounted
        finally:
            with self._lock:
                del self._drives[user]

    def verify(self, number: int, drive: str | None, progress: Callable[[int, int], None]) -> Verified:
        """The tapes of a backup, read and compared with its catalogue. Raises NoSuchBackup, OperatorError,
        CatalogueDamaged, and what `progress` raises."""
        with self.catalogue(number) as catalogue:
            volumes = catalogue.volumes()
            if not volumes:
                raise OperatorError(Failure.REFUSED, f"backup {number} has nothing on tape")
            with self.drive_for(volumes[0].barcode, drive) as mounted:
                return verify_tapes(catalogue, mounted, progress)

    def verify_disks(self, number: int, progress: Callable[[int, int], None]) -> Verified:
        """The disks as they are now, compared with the catalogue. Raises NoSuchBackup, OperatorError, NotReadable,
        CatalogueDamaged, OSError, and what `progress` raises."""
        backup = self.records.get(number)
        with self.catalogue(number) as catalogue:
            if images := catalogue.facts().get("images"):
                message = (
                    f"of {', '.join(images)} backup {number} has the changes only; verify its tapes, without --disks"
                )
                raise OperatorError(Failure.REFUSED, message)
            instant = self._house.still(backup.disks)
            try:
                disks = [
                    StillDisk(name, instant.images[name], instant.units[name].block_length) for name in backup.disks
                ]
                watched = renewing(instant, progress)
                found = Sources.found_on(disks, raw=backup.raw, alive=lambda: watched(0, backup.content_bytes))
                with closing(found) as sources:
                    return verify_disks(catalogue, sources, watched, complete=backup.state is BackupState.DONE)
            finally:
                instant.release()

    def file_of(self, number: int, name: str) -> Kept:
        """A file of the instant of a backup by its name; without one, its only file with content. Raises NoSuchBackup,
        OperatorError, CatalogueDamaged, OSError."""
        with self.catalogue(number) as catalogue:
            wanted = os.fsencode(name)
            changes = {os.fsencode(name) for name in (catalogue.facts().get("images") or {}).values()}
            found = [kept for kept in catalogue.state(wanted or b"*", MOST_NAMED) if kept.file.kind is Kind.FILE]
            found = [kept for kept in found if kept.file.name not in changes]
        if wanted:
            found = [kept for kept in found if kept.file.name == wanted]
        if len(found) != 1:
            which = f"no plain file {name}" if wanted else f"{len(found)} files; name the one"
            raise OperatorError(Failure.NOT_FOUND, f"backup {number} has {which}; see: tapebay catalogue show {number}")
        return found[0]

    def restore(
        self, number: int, kept: Kept, unit: BlockDevice, target: RestoreTarget, drive: str | None,
        progress: Callable[[int, int], None], run: str | None = None,
    ) -> None:  # fmt: skip
        """The content of a file onto a disk. run: its files have one drive, as long as kept_drives says. Raises as
        restore_file() does, and NoSuchBackup, CatalogueDamaged, OSError."""
        with self.chain(number) as chain:
            pieces = chain.pieces(kept)
            total, before = sum(file.stored_bytes for _, file in pieces), 0
            link, file = pieces[0]
            first = link.volumes[link.catalogue.parts_of(file.number)[0].volume].barcode
            drive_for = partial(self.kept_drives.drive, run) if run is not None else self.drive_for
            with drive_for(first, drive, [unit]) as mounted:
                for link, file in pieces:
                    restore_file(link.catalogue, mounted, file, target, _from(progress, before, total))
                    target, before = replace(target, clears=False), before + file.stored_bytes

    @contextmanager
    def catalogue(self, number: int) -> Iterator[Catalogue]:
        """The catalogue of a backup. Raises NoSuchBackup, CatalogueDamaged, OSError."""
        catalogue = Catalogue.open(self.path_of(self.records.get(number)))
        try:
            yield catalogue
        finally:
            catalogue.close()

    @contextmanager
    def chain(self, number: int) -> Iterator[Chain]:
        """A backup and those that it rests on. Raises NoSuchBackup, CatalogueDamaged, OSError."""

        def open_link(backup: Backup) -> Link:
            return Link(backup.number, Catalogue.open(self.path_of(backup)))

        def open_other(identifier: str) -> Link | None:
            found = self._with_identifier(identifier)
            return open_link(found) if found is not None else None

        with closing(Chain(open_link(self.records.get(number)), open_other)) as chain:
            yield chain

    def _with_identifier(self, identifier: str) -> Backup | None:
        return next((backup for backup in self.records.all() if backup.identifier == identifier), None)

    def rebuild(
        self, cartridges: Sequence[str], drive: str | None, progress: Callable[[int, int], None]
    ) -> list[Backup]:
        """The catalogues of the backups that these cartridges are of, as their indexes have them. Raises OperatorError,
        OSError."""
        self.check(cartridges, drive)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        found: list[Index] = []
        try:
            with self.drive_for(cartridges[0], drive) as mounted:
                for done, barcode in enumerate(cartridges):
                    progress(done, len(cartridges))
                    found.append(Index(mounted, barcode, self.directory))
            return [self._adopt(one) for one in best(found).values()]
        except BadIndex as error:
            raise OperatorError(Failure.REFUSED, f"an index cannot be used: {error}") from error
        finally:
            for one in found:
                one.close()

    def _adopt(self, found: Index) -> Backup:
        known = self._with_identifier(found.head["identifier"])
        rests_on = self._with_identifier((found.head.get("chain") or [""])[-1])
        if known is not None and known.state is not BackupState.DONE:
            message = f"backup {known.number} of these cartridges is {known.state.value}; its catalogue knows more"
            raise OperatorError(Failure.REFUSED, message)
        found.fill(self.directory / f"{found.head['identifier']}.db")
        made = known or self.records.add(
            found.head["identifier"],
            tuple(found.head["disks"] or ()),
            tuple(volume.barcode for volume in found.volumes()),
            state=BackupState.DONE,
            reason=f"read back from {found.barcode}",
            since=rests_on.number if rests_on is not None else None,
        )
        with self.catalogue(made.number) as catalogue:
            files, content = catalogue.totals()
        return self.records.note(made.number, files=files, content_bytes=content)

    # ---- running ---------------------------------------------------------------------------------------------------

    def _start(self, backup: Backup, catalogue: Catalogue) -> Backup:
        job = BackupJob(
            backup, catalogue, self._house, self._drive_of, self.holdings,
            lambda totals: self._counted(backup, totals), self._base_of(backup),
            lambda reason: self._is_full(backup, reason),
        )  # fmt: skip
        thread = threading.Thread(target=self._run, args=(job,), name=f"backup {backup.number}", daemon=True)
        with self._lock:
            self._jobs[backup.number], self._threads[backup.number] = job, thread
        try:
            thread.start()
        except RuntimeError as error:
            job.progress.ended = time.monotonic()
            catalogue.close()
            self._end(job, BackupState.FAILED, f"the daemon has no thread to spare ({error}); resume it", 0.0)
        return self.records.get(backup.number)

    def _base_of(self, backup: Backup) -> Path | None:
        return self.path_of(self.records.get(backup.since)) if backup.since is not None else None

    def _is_full(self, backup: Backup, reason: str) -> None:
        log.warning("a full backup in place of an increment", backup=backup.number, reason=reason)
        self.records.note(backup.number, since=None, full_because=reason)

    def _counted(self, backup: Backup, totals: SourceTotals) -> None:
        self.records.note(
            backup.number, files=totals.files, content_bytes=totals.content_bytes, skipped=totals.skipped_files
        )

    def _run(self, job: BackupJob) -> None:
        number, before = job.backup.number, processor_seconds()
        log.info("backup begins", backup=number, disks=list(job.backup.disks))
        with acting_as(OPERATOR):
            state, reason = self._outcome(job)
            job.progress.ended = time.monotonic()
            job.catalogue.close()
            self._end(job, state, reason, processor_seconds() - before)
        log.info("backup ends", backup=number, state=state.value, reason=reason, files=job.progress.files)

    def _end(self, job: BackupJob, state: BackupState, reason: str, spent_seconds: float) -> None:
        """One step: whoever sees that it has ended may resume it at once."""
        number = job.backup.number
        with self.records.changing:
            try:
                spent = self.records.get(number).processor_seconds + spent_seconds
                self.records.step(number, state, reason=reason, processor_seconds=round(spent, 3))
            except OSError as error:
                log.error("how a backup ended cannot be kept", backup=number, reason=str(error))
                self.records.ended_unkept(number, state, f"{reason}; it could not be kept: {explained(error)}")
            with self._lock:
                self._last[number] = job.progress
                del self._jobs[number], self._threads[number]
                self._drives.pop(number, None)
            self.records.changing.notify_all()

    @staticmethod
    def _outcome(job: BackupJob) -> tuple[BackupState, str]:
        """Runs it; how it ended, and why."""
        try:
            job.run()
        except (BackupCancelled, Stopped):
            if job.stopping.is_set():
                return BackupState.INTERRUPTED, "the daemon was stopped while it ran"
            return BackupState.CANCELLED, "cancelled by the operator"
        except EXPECTED as error:
            log.warning("a backup failed", backup=job.backup.number, reason=_reason_of(error), answer=str(error))
            return BackupState.FAILED, _reason_of(error)
        except Exception as error:
            log.exception("a backup failed", backup=job.backup.number)
            return BackupState.FAILED, f"internal error ({type(error).__name__}); the daemon's log has the details"
        return BackupState.DONE, ""

    def _drive_of(self, backup: Backup, barcode: str, without: Container[str]) -> str:
        with self._lock:
            self._drives.pop(backup.number, None)  # the one that it had before
        return self._take_drive(backup.number, backup.drive, barcode, without)

    def _together(self, barcode: str, address: int) -> bool:
        """Whether the robot may bring the cartridge there: both are in the same partition."""
        element, robot = self._house.inventory.find(barcode), self._house.robot
        return element is None or robot.together(element.address, address)

    def _take_drive(self, user: object, wanted: str | None, barcode: str, without: Container[str] = ()) -> str:
        """The drive that is asked for, that the cartridge is in, or the first that is empty, and not one of `without`;
        for this user until it gives it back. Raises OperatorError."""
        addresses = self._house.drive_addresses()
        held = {element.address: element.barcode for element in self._house.inventory.elements(ElementType.DRIVE)}
        with self._lock:
            taken = set(self._drives.values())
            for name in [wanted] if wanted is not None else list(addresses):
                if name not in addresses:
                    raise OperatorError(Failure.NOT_FOUND, f"there is no drive {name}; see: tapebay drive list")
                if name in without or not self._together(barcode, addresses[name]):
                    continue
                if name not in taken and held.get(addresses[name]) in (None, barcode):
                    self._drives[user] = name
                    return name
        which = f"drive {wanted} is" if wanted is not None else "all drives are"
        raise OperatorError(
            Failure.REFUSED,
            f"{which} in use, or in another partition; empty one (tapebay unload) and resume",
        )


def _reason_of(error: Exception) -> str:
    if isinstance(error, StreamFailed | CommandFailed):
        return words_of(error)
    return explained(error) if isinstance(error, OSError) else str(error)


def _from(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    """Of a part of a whole, which begins there."""
    return lambda done, _: progress(before + done, total)
