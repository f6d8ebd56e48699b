"""Tape data encryption: SECURITY PROTOCOL IN and OUT, and what follows for reading and writing (SSC-4 4.2.23, 8.5)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from scsi_targets.devices.tape.encryption_parameters import DECRYPTION_MODES, EncryptionParameters, ParameterSet
from scsi_targets.devices.tape.encryption_request import parse_set_data_encryption
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.dispatch import READS, handles
from scsi_targets.devices.unit.logical_unit import wipe
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Response
from scsi_targets.t10 import sense, spc
from scsi_targets.t10 import ssc_encryption as pages
from scsi_targets.t10.fields import integers
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_encryption import EncryptionMode, KadType, NextBlock
from vlib_images.cartridge.codec import (
    A_KAD_BYTES_MAX,
    KEY_BYTES,
    U_KAD_BYTES_MAX,
    Decryption,
    EncryptionStatus,
    Origin,
    RawEncoder,
)
from vlib_images.errors import DamagedBlock, StorageError

if TYPE_CHECKING:
    from scsi_targets.devices.tape.compression import Compression
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.mode import ModePages
    from scsi_targets.devices.unit.task import Nexus, Task

log = structlog.get_logger(__name__)

RANDOM_BYTES = 32
NO_POSITION, NOT_VALID_HERE, VALID_FOR_WRITING_HERE = 0, 1, 2  # AVFCLP (SSC-4 8.5.2.4)


class DriveEncryption(TapePart):
    """`parameters` holds who set what. The medium is told lazily, by the next transfer: so a key that goes while a
    command runs can only fail that command, never let it write in clear."""

    def __init__(self, drive: TapeTransfers, compression: Compression) -> None:
        super().__init__(drive)
        self.parameters = EncryptionParameters()
        self._compression = compression
        self._in_force: ParameterSet | None = None  # None: the medium has to be told

    # ---- transfers -----------------------------------------------------------------------------------------------

    def prepare_transfer(self, nexus: Nexus, *, writing: bool) -> None:
        """Brings the data encryption parameters of a nexus into effect. Raises CheckCondition: it must not write."""
        if not self._drive.encryption_watched:
            return
        if writing and self.parameters.changed_under_lock(nexus):
            raise CheckCondition(sense.KEY_INSTANCE_COUNTER_CHANGED)
        parameters = self.parameters.of(nexus)
        if parameters is not self._in_force:
            self._bring_into_force(parameters)

    def _bring_into_force(self, parameters: ParameterSet) -> None:
        medium = self._drive.loaded
        match parameters.encryption_mode:
            case EncryptionMode.ENCRYPT:
                medium.encoder = parameters.encoder(self._compression.level if self._compression.on else None)
            case EncryptionMode.EXTERNAL:
                medium.encoder = RawEncoder()
            case _:
                medium.encoder = self._compression.encoder
        medium.decryption = parameters.decryption
        self._in_force = parameters
        self._drive.encryption_watched = self.parameters.any

    def apply_mode_pages(self, mode: ModePages) -> None:
        self._in_force = None  # compression may have been turned on or off, and has told the medium

    def on_loaded(self) -> None:
        self._in_force = None

    def _parameters_changed(self) -> None:
        self._in_force, self._drive.encryption_watched = None, True

    def _drop(self, which: Callable[[ParameterSet], bool], *, tell: bool) -> None:
        """Ends sets of parameters; tell: those who used them learn of it."""
        ending = [each for each in self.parameters.sets() if which(each)]
        if not ending:
            return
        users = set().union(*(self.parameters.users_of(each, self._drive.nexuses) for each in ending))
        self.parameters.drop(which)
        self._parameters_changed()
        if tell:
            self._drive.establish_unit_attention(sense.ENCRYPTION_PARAMETERS_LOST, users)
        log.info("encryption keys cleared", drive=self._drive.identity.serial_number)

    # ---- SECURITY PROTOCOL IN ------------------------------------------------------------------------------------

    @handles(spc.SecurityProtocolIn, reservation=READS)
    def security_protocol_in(self, cdb: spc.SecurityProtocolIn, task: Task) -> Response:
        if cdb.increment_512:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolIn.increment_512)
        if cdb.security_protocol not in _PROTOCOLS:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolIn.security_protocol)
        page = _PROTOCOLS[cdb.security_protocol].get(cdb.security_protocol_specific)
        if page is None:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolIn.security_protocol_specific)
        return reply(page(self, task.nexus), cdb.allocation_length)

    def supported_protocols(self, nexus: Nexus) -> bytes:
        """Supported security protocols list (SPC-5 7.7.1.3)."""
        header = pages.SupportedProtocolsHeader.encode(supported_security_protocol_list_length=len(_PROTOCOLS))
        return header + integers(sorted(_PROTOCOLS), 1)

    def certificate_data(self, nexus: Nexus) -> bytes:
        """Certificate data (SPC-5 7.7.1.4): there is none."""
        return bytes(4)

    def in_support(self, nexus: Nexus) -> bytes:
        """Tape Data Encryption In Support page (SSC-4 8.5.2.2)."""
        codes = sorted(_PROTOCOLS[pages.TAPE_DATA_ENCRYPTION])
        return _page(pages.IN_SUPPORT, integers(codes, 2))

    def out_support(self, nexus: Nexus) -> bytes:
        """Tape Data Encryption Out Support page (SSC-4 8.5.2.3)."""
        return _page(pages.OUT_SUPPORT, integers([pages.SET_DATA_ENCRYPTION], 2))

    def capabilities(self, nexus: Nexus) -> bytes:
        """Data Encryption Capabilities page, one algorithm."""
        if self._drive.medium is None:
            here = NO_POSITION
        else:
            here = VALID_FOR_WRITING_HERE if self._drive.write_protection() is None else NOT_VALID_HERE
        algorithm = pages.AlgorithmDescriptor.encode(
            valid_for_mounted_volume=self._drive.medium is not None,
            valid_for_position=here,
            maximum_unauthenticated_length=U_KAD_BYTES_MAX,
            maximum_authenticated_length=A_KAD_BYTES_MAX,
            key_length=KEY_BYTES,
        )
        return pages.CapabilitiesPage.encode() + algorithm

    def supported_key_formats(self, nexus: Nexus) -> bytes:
        """Supported Key Formats page (SSC-4 8.5.2.5): plain text."""
        return _page(pages.SUPPORTED_KEY_FORMATS, integers([pages.PLAIN_TEXT_KEY], 1))

    def management_capabilities(self, nexus: Nexus) -> bytes:
        """Data Encryption Management Capabilities page."""
        return pages.ManagementCapabilitiesPage.encode()

    def encryption_status(self, nexus: Nexus) -> bytes:
        """Data Encryption Status page: what governs the nexus that asks. Never a key."""
        given = self.parameters.of(nexus)
        kads = b"".join(
            (
                pages.encode_kad(KadType.UNAUTHENTICATED, given.unauthenticated_data, pages.NOT_COVERED),
                pages.encode_kad(KadType.AUTHENTICATED, given.authenticated_data, pages.NOT_ATTEMPTED),
                pages.encode_kad(KadType.METADATA, given.metadata, pages.NOT_COVERED),
            )
        )
        head = pages.StatusPage.encode(
            page_length=pages.StatusPage.length - 4 + len(kads),
            i_t_nexus_scope=self.parameters.scope_of(nexus),
            key_scope=given.scope,
            encryption_mode=given.encryption_mode,
            decryption_mode=DECRYPTION_MODES.index(given.decryption_mode),
            algorithm_index=0 if given.disabled else pages.ALGORITHM_INDEX,
            key_instance_counter=given.instance,
            volume_contains_encrypted_blocks=self._volume_is_encrypted(),
            check_external_encryption_mode=given.check_origin,
            raw_decryption_mode_disabled=given.raw_read_disabled,
            kad_format=given.kad_format,
        )
        return head + kads

    def _volume_is_encrypted(self) -> bool:
        """Whether a volume is there that is known to hold an encrypted block."""
        medium = self._drive.medium
        if medium is None:
            return False
        found = [medium.encrypted_blocks(partition) for partition in range(medium.partition_count)]
        return any(each is not None and each.first is not None for each in found)

    def next_block_status(self, nexus: Nexus) -> bytes:
        """Next Block Encryption Status page: of the block at the position."""
        self._drive.check_ready()
        given = self.parameters.of(nexus)
        status, found = self._next_block(given)
        if status is NextBlock.DECRYPTABLE:
            authenticated = pages.AUTHENTICATED
        else:
            authenticated = pages.NOT_AUTHENTIC if given.decrypting else pages.NOT_ATTEMPTED
        kads = pages.encode_kad(KadType.UNAUTHENTICATED, found.unauthenticated_data, pages.NOT_COVERED)
        kads += pages.encode_kad(KadType.AUTHENTICATED, found.authenticated_data, authenticated)
        head = pages.NextBlockStatusPage.encode(
            page_length=pages.NextBlockStatusPage.length - 4 + len(kads),
            logical_object_number=self._drive.loaded.position[1],
            encryption_status=status,
            algorithm_index=pages.ALGORITHM_INDEX if found.encrypted else 0,
            written_in_external_mode=found.origin is Origin.EXTERNAL,
            raw_decryption_mode_disabled=found.raw_read_disabled,
            kad_format=found.kad_format,
        )
        return head + kads

    def _next_block(self, given: ParameterSet) -> tuple[NextBlock, EncryptionStatus]:
        medium, nothing = self._drive.loaded, EncryptionStatus(encrypted=False)
        if medium.at_eod:
            return NextBlock.UNKNOWN_NOW, nothing
        try:
            found = medium.next_block_status()
            if found is None:
                return NextBlock.NOT_A_BLOCK, nothing
            if not found.encrypted:
                return NextBlock.NOT_ENCRYPTED, nothing
            able = given.key is not None and given.decrypting and medium.can_decrypt_next(given.key)
        except (DamagedBlock, StorageError) as error:  # an error reading the next block: the READ will report it
            log.info("the next block's encryption cannot be told", reason=str(error))
            return NextBlock.UNKNOWN_NOW, nothing
        return (NextBlock.DECRYPTABLE if able else NextBlock.NOT_DECRYPTABLE), found

    def random_number(self, nexus: Nexus) -> bytes:
        """Random Number page (SSC-4 8.5.2.10)."""
        return _page(pages.RANDOM_NUMBER, os.urandom(RANDOM_BYTES))

    # ---- SECURITY PROTOCOL OUT -----------------------------------------------------------------------------------

    @handles(spc.SecurityProtocolOut, permission=Permission.WRITE_PARAMETERS, secret=True)
    def security_protocol_out(self, cdb: spc.SecurityProtocolOut, task: Task) -> Response:
        try:
            return self._take_page(cdb, task)
        finally:
            wipe(task.data())

    def _take_page(self, cdb: spc.SecurityProtocolOut, task: Task) -> Response:
        if cdb.increment_512:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolOut.increment_512)
        if cdb.security_protocol != pages.TAPE_DATA_ENCRYPTION:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolOut.security_protocol)
        if cdb.security_protocol_specific != pages.SET_DATA_ENCRYPTION:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SecurityProtocolOut.security_protocol_specific)
        if cdb.transfer_length:
            self._set_data_encryption(task.data(), cdb.transfer_length, task.nexus)
        return Response(data_length=cdb.transfer_length)

    def _set_data_encryption(self, data: memoryview, length: int, nexus: Nexus) -> None:
        if len(data) < length:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        request = parse_set_data_encryption(data[:length])
        new = request.parameters
        try:
            self._check_conditions(new, nexus)
            concerns_others = self.parameters.establish(new, nexus, lock=request.lock)
        except BaseException:
            new.wipe()
            raise
        self._parameters_changed()
        if concerns_others:
            sharing = self.parameters.users_of(self.parameters.shared_or_defaults, self._drive.nexuses)
            self._drive.establish_unit_attention(sense.ENCRYPTION_PARAMETERS_CHANGED, sharing - {nexus})
        log.info(
            "data encryption set",
            drive=self._drive.identity.serial_number,
            initiator=nexus.initiator_name,
            scope=new.scope.name,
            encryption=new.encryption_mode.name,
            decryption=new.decryption_mode.name,
        )

    def _check_conditions(self, new: ParameterSet, nexus: Nexus) -> None:
        """When a key is to be cleared by something that cannot happen now, it is refused (SSC-4 8.5.3.2)."""
        if new.clear_on_demount and self._drive.medium is None:
            raise CheckCondition(
                sense.INVALID_FIELD_IN_PARAMETER_LIST, pages.SetDataEncryptionPage.clear_key_on_demount
            )
        if (new.clear_on_preempt or new.clear_on_loss) and not self._holds_reservation(nexus):
            field = pages.SetDataEncryptionPage.clear_key_on_reservation_preempt
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field)

    # ---- events --------------------------------------------------------------------------------------------------

    def _holds_reservation(self, nexus: Nexus) -> bool:
        held = self._drive.reservations
        if held.legacy_holder == nexus or held.is_holder(nexus):
            return True
        return held.type is not None and held.type.registrants and nexus in held.registrations

    def on_reservations_changed(self, *, preempted: bool) -> None:

        def lost(each: ParameterSet) -> bool:
            flagged = each.clear_on_loss or (preempted and each.clear_on_preempt)
            return flagged and each.owner is not None and not self._holds_reservation(each.owner)

        self._drop(lost, tell=True)

    def on_nexus_lost(self, nexus: Nexus) -> None:
        if self.parameters.any:
            self.on_reservations_changed(preempted=False)
            self.parameters.nexus_lost(nexus)
            self._parameters_changed()

    def on_unloaded(self) -> None:
        self._drive.loaded.encoder, self._drive.loaded.decryption = None, Decryption()
        self._drop(lambda each: each.clear_on_demount, tell=False)

    def on_reset(self) -> None:
        self._forget_everything()

    def close(self) -> None:
        with self._drive.lock:
            self._forget_everything()

    def _forget_everything(self) -> None:
        if self.parameters.any:
            self.parameters.clear()
            self._parameters_changed()


def _page(code: int, body: bytes) -> bytes:
    return pages.PageHeader.encode(page_code=code, page_length=len(body)) + body


_Page = Callable[[DriveEncryption, "Nexus"], bytes]

# SECURITY PROTOCOL and SECURITY PROTOCOL SPECIFIC to what answers.
_PROTOCOLS: dict[int, dict[int, _Page]] = {
    pages.SECURITY_PROTOCOL_INFORMATION: {
        pages.SUPPORTED_SECURITY_PROTOCOLS: DriveEncryption.supported_protocols,
        pages.CERTIFICATE_DATA: DriveEncryption.certificate_data,
    },
    pages.TAPE_DATA_ENCRYPTION: {
        pages.IN_SUPPORT: DriveEncryption.in_support,
        pages.OUT_SUPPORT: DriveEncryption.out_support,
        pages.CAPABILITIES: DriveEncryption.capabilities,
        pages.SUPPORTED_KEY_FORMATS: DriveEncryption.supported_key_formats,
        pages.MANAGEMENT_CAPABILITIES: DriveEncryption.management_capabilities,
        pages.STATUS: DriveEncryption.encryption_status,
        pages.NEXT_BLOCK_STATUS: DriveEncryption.next_block_status,
        pages.RANDOM_NUMBER: DriveEncryption.random_number,
    },
}
