"""The data encryption parameters of one drive: who set which, and which set governs an I_T nexus (SSC-4 4.2.23).

Pure state: no CDBs. The logical unit's lock is held by the caller. Keys are in memory only, and wiped
when their set goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10.ssc_encryption import CheckOrigin, EncryptionMode, EncryptionScope
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Encoder, Encryption, EncryptionKey, Origin

# DECRYPTION MODE (SSC-4 table 191) in its numbers' order.
DECRYPTION_MODES = (DecryptionMode.DISABLE, DecryptionMode.RAW, DecryptionMode.DECRYPT, DecryptionMode.MIXED)

REFUSED = {CheckOrigin.REFUSE_EXTERNAL: Origin.EXTERNAL, CheckOrigin.REFUSE_ENCRYPT: Origin.ENCRYPT}


@dataclass(slots=True, eq=False)
class ParameterSet:
    """One saved set of data encryption parameters. instance: the key instance counter's value; 0 for the defaults."""

    owner: Nexus | None = None
    scope: EncryptionScope = EncryptionScope.PUBLIC
    encryption_mode: EncryptionMode = EncryptionMode.DISABLE
    decryption_mode: DecryptionMode = DecryptionMode.DISABLE
    key: EncryptionKey | None = None
    authenticated_data: bytes = b""
    unauthenticated_data: bytes = b""
    metadata: bytes = b""
    kad_format: int = 0
    check_origin: CheckOrigin = CheckOrigin.VENDOR_SPECIFIC
    raw_read_disabled: bool = False
    clear_on_demount: bool = False
    clear_on_preempt: bool = False
    clear_on_loss: bool = False
    instance: int = 0

    @property
    def disabled(self) -> bool:
        """Neither encrypts nor decrypts."""
        return self.encryption_mode is EncryptionMode.DISABLE and self.decryption_mode is DecryptionMode.DISABLE

    @property
    def decrypting(self) -> bool:
        """Whether encrypted blocks are decrypted with the key."""
        return self.decryption_mode in (DecryptionMode.DECRYPT, DecryptionMode.MIXED)

    @property
    def decryption(self) -> Decryption:
        """How the cartridge is to read."""
        return Decryption(self.decryption_mode, self.key, REFUSED.get(self.check_origin))

    def encoder(self, compression_level: int | None) -> Encoder:
        """How the cartridge is to write, in ENCRYPT mode."""
        assert self.key is not None
        how = Encryption(
            self.key, self.authenticated_data, self.unauthenticated_data, self.raw_read_disabled, self.kad_format
        )
        return Encoder(compression_level, how)

    def wipe(self) -> None:
        """Forgets the key."""
        if self.key is not None:
            self.key.wipe()


DEFAULTS = ParameterSet()


class EncryptionParameters:
    """`shared` is the set with scope ALL I_T NEXUS; every nexus without one of its own (LOCAL) uses it."""

    def __init__(self) -> None:
        self.shared: ParameterSet | None = None
        self._local: dict[Nexus, ParameterSet] = {}
        self._locked: dict[Nexus, int] = {}  # LOCK: the key instance that the nexus insists on
        self._instances = 0

    @property
    def any(self) -> bool:
        """Whether anybody has set anything that is still there."""
        return self.shared is not None or bool(self._local) or bool(self._locked)

    def of(self, nexus: Nexus) -> ParameterSet:
        """The set that governs this nexus."""
        return self._local.get(nexus) or self.shared_or_defaults

    @property
    def shared_or_defaults(self) -> ParameterSet:
        """What governs a nexus that chose nothing for itself."""
        return self.shared or DEFAULTS

    def scope_of(self, nexus: Nexus) -> EncryptionScope:
        """The scope that the nexus chose last, or fell back to."""
        if nexus in self._local:
            return EncryptionScope.LOCAL
        owns = self.shared is not None and self.shared.owner == nexus
        return EncryptionScope.ALL_I_T_NEXUS if owns else EncryptionScope.PUBLIC

    def changed_under_lock(self, nexus: Nexus) -> bool:
        """Whether the nexus locked itself to a key instance that is no longer the one in force (SSC-4 4.2.23.6)."""
        locked = self._locked.get(nexus)
        return locked is not None and locked != self.of(nexus).instance

    def establish(self, new: ParameterSet, nexus: Nexus, *, lock: bool) -> bool:
        """Makes a set govern; what the nexus had set before goes. True when others that share are concerned."""
        owned_shared = self.shared is not None and self.shared.owner == nexus
        self.drop(lambda old: old.owner == nexus or (old is self.shared and new.scope is EncryptionScope.ALL_I_T_NEXUS))
        if new.scope is not EncryptionScope.PUBLIC:
            self._instances = self._instances % 0xFFFFFFFF + 1
            new.instance, new.owner = self._instances, nexus
        if new.scope is EncryptionScope.LOCAL:
            self._local[nexus] = new
        elif new.scope is EncryptionScope.ALL_I_T_NEXUS and not new.disabled:
            self.shared = new
        self._locked.pop(nexus, None)
        if lock:
            self._locked[nexus] = self.of(nexus).instance
        return new.scope is EncryptionScope.ALL_I_T_NEXUS or owned_shared

    def users_of(self, which: ParameterSet, nexuses: set[Nexus]) -> set[Nexus]:
        """Those of `nexuses` whom this set governs."""
        return {nexus for nexus in nexuses if self.of(nexus) is which}

    def sets(self) -> list[ParameterSet]:
        """Every set that somebody established."""
        return [*self._local.values(), *([self.shared] if self.shared is not None else [])]

    def drop(self, which: Callable[[ParameterSet], bool]) -> None:
        """Ends sets; their nexuses fall back to what is left. A lock stays, so that nothing is written in clear by who
        insisted on a key."""
        for old in self.sets():
            if not which(old):
                continue
            old.wipe()
            if old is self.shared:
                self.shared = None
            elif old.owner is not None:
                del self._local[old.owner]

    def nexus_lost(self, nexus: Nexus) -> None:
        """A LOCAL set and a lock end with their nexus; a shared set stays, as a drive keeps it."""
        self.drop(lambda old: old.scope is EncryptionScope.LOCAL and old.owner == nexus)
        self._locked.pop(nexus, None)

    def clear(self) -> None:
        """Reset, power off: everything goes."""
        self.drop(lambda old: True)
        self._locked.clear()
