"""The broker: whose turn it is, which volume and which drive, and the grant that comes of it. One thread.

Policy is first come, first served: a request names a volume or takes a scratch one (a blank cartridge in a storage
slot, so nothing is ever overwritten unasked), and the broker chooses the drive. Every step is a transaction. What is
asked of the robot comes between two steps and is asked again after a crash, when the inventory says where the
cartridge is: so a move that was begun is finished, and nothing is done twice.

The broker is not in the way of data, and no login asks it: it tells the gate which grants are live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from appliance.access.gate import LEASE_SECONDS, Gate
from appliance.access.keys import Capability, GrantedUnit, Key, initiator_hash, volume_hash
from appliance.broker.requests import Request, Requests
from appliance.broker.states import NotNow, State, Step
from scsi_targets.devices.changer.robot import Incompatible, Manner, Robot, RobotError
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.t10.sense import CheckCondition
from vlib_images.cartridge.medium import MEDIA, can_read, can_write
from vlib_images.errors import CartridgeError
from vlib_images.library.actor import acting_as
from vlib_images.library.elements import Element, ElementType, InventoryError, NoSuchCartridge
from vlib_images.library.homes import home_of
from vlib_images.library.inventory import Inventory

if TYPE_CHECKING:
    from scsi_targets.devices.tape.tape_drive import TapeDrive

log = structlog.get_logger(__name__)

KEY_SECONDS: Final = 900.0  # for the first login
DEFAULT_LEASE_SECONDS: Final = 180.0  # three renewals of a minute
LOOK_SECONDS: Final = 1.0  # how often the broker looks whether what a request waits for has come
RETRY_SECONDS: Final = 0.1  # the same for sessions that end
FORCE_SECONDS: Final = 45.0  # a grant that is over gives its drive back after that, whatever still runs there
ACTOR: Final = "broker"
READ: Final = Permission.READ_DATA | Permission.READ_PARAMETERS | Permission.WRITE_PARAMETERS | Permission.RESERVE
WRITE: Final = READ | Permission.WRITE_DATA

_TROUBLE = (RobotError, InventoryError, CartridgeError, CheckCondition)


class House(Protocol):
    """What the broker asks of the library that is served."""

    robot: Robot
    drives: dict[str, TapeDrive]

    def drive_addresses(self) -> dict[str, int]: ...
    def drive_luns(self) -> dict[str, int]: ...
    def look_again(self) -> None:
        """Every session is to ask anew what it sees."""

    def describe(self, barcode: str, /) -> dict[str, object]:
        """What the cartridge store tells of a cartridge."""


class Choice(NamedTuple):
    """A drive by name, and the barcode of what is to be in it."""

    drive: str
    barcode: str


class Broker:
    """start() it once the library is made, stop() it before the library closes."""

    def __init__(
        self,
        house: House,
        inventory: Inventory,
        requests: Requests,
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tells the gate at once which grants are live and which are over, before the first login."""
        self.requests = requests
        self._house, self._inventory, self._gate, self._clock = house, inventory, gate, clock
        self._wanted = threading.Condition()
        self._stopping = False
        self._leases: dict[str, float] = {}  # when the lease of a grant ends
        self._ended_at: dict[str, float] = {}
        self._waits: dict[str, str] = {}  # why a request waits
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        for request in requests.all():
            self._tell_gate(request)
            self._renewed(request)

    def start(self) -> None:
        """Serve requests on a thread."""
        self._thread.start()

    def stop(self) -> None:
        """After what is being done now. Requests and grants stay what they are."""
        with self._wanted:
            self._stopping = True
            self._wanted.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- for verbs --------------------------------------------------------------------------------------------------

    def ask(self, initiator: str, volume: str | None, *, write: bool, lease_seconds: float) -> Request:
        """A new request. Raises NoSuchCartridge, TooManyRequests, OSError."""
        if volume is not None and volume not in self._inventory:
            raise NoSuchCartridge(f"the library has no cartridge {volume}")
        made = self.requests.create(initiator, volume, write=write, lease_seconds=lease_seconds)
        self._wake()
        return made

    def end(self, name: str, ends_as: Step, reason: str) -> Request:
        """The request or its grant is not wanted any more, or revoked: at once its key does nothing, and its drive is
        freed. Raises NoSuchRequest, NotNow, OSError."""
        request = self.requests.get(name)
        if request.state.holds:
            request = self.requests.step(name, Step.END, ends_as=ends_as, reason=reason)
            self._over(request)
        else:
            request = self.requests.step(name, Step.CANCEL, reason=reason)
        self._wake()
        return request

    def renew(self, name: str) -> float:
        """The grant is still used; for how many seconds its lease holds from now on. Raises NoSuchRequest, NotNow."""
        request = self.requests.get(name)
        if not request.state.holds or request.state is State.ENDING:
            raise NotNow(f"the request is {request.state.value}: there is no grant to be renewed")
        self._renewed(request)
        return request.lease_seconds

    def key(self, request: Request) -> Key | None:
        """The key of a request that has its drive; always the same. None: it has none (yet, or any more)."""
        lun = self._house.drive_luns().get(request.drive or "")
        if not request.state.holds or request.state is State.ENDING or lun is None or request.barcode is None:
            return None
        unit = GrantedUnit(lun, WRITE if request.write else READ, volume_hash(request.barcode))
        capability = Capability(
            request.key_version, request.key_expires_at_ms, request.grant, initiator_hash(request.initiator), (unit,)
        )
        try:
            return self._gate.keys.mint(self._gate.target_name, capability)
        except KeyError:  # its working key is revoked
            return None

    def why(self, request: Request) -> str:
        """Why it waits, or why it ended."""
        return request.reason or self._waits.get(request.name, "")

    def lease_left(self, request: Request) -> float | None:
        """Seconds; None: there is no lease."""
        ends_at = self._leases.get(request.name)
        return None if ends_at is None else max(0.0, ends_at - self._clock())

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._wanted:
            self._wanted.notify_all()

    def _run(self) -> None:
        with acting_as(ACTOR):
            while True:
                pause = self.work()
                with self._wanted:
                    if not self._stopping:
                        self._wanted.wait(pause)
                    if self._stopping:
                        return

    def work(self) -> float:
        """Everything that can be done now; after how many seconds there may be more."""
        moved = False
        for request in self.requests.all():
            if self._stopping or request.state.over:
                continue
            try:
                moved |= self._advance(request)
            except OSError as error:
                log.error("a request cannot go on; it is tried again", request=request.name, reason=str(error))
            except NotNow:  # somebody ended it meanwhile
                moved = True
        if moved:
            return 0.0
        ending = any(request.state is State.ENDING for request in self.requests.all())
        return RETRY_SECONDS if ending else LOOK_SECONDS

    def _advance(self, request: Request) -> bool:
        """One step, if it can be done now. Raises OSError, NotNow."""
        if request.state is State.QUEUED or request.state is State.WARRANTED:
            return self._place(request)
        if request.state is State.PLACING:
            self.requests.step(request.name, Step.MOUNT)
            return True
        if request.state is State.MOUNTING:
            return self._mount(request)
        if request.state is State.GRANTED:
            return self._look_after(request)
        return self._free(request)

    # ---- a volume and a drive, in one decision ----------------------------------------------------------------------

    def _place(self, request: Request) -> bool:
        choice = self._choose(request)
        if isinstance(choice, str):
            self._waits[request.name] = choice
            return False
        if request.state is State.QUEUED:
            self.requests.step(request.name, Step.WARRANT)
        placed = self.requests.step(
            request.name,
            Step.PLACE,
            drive=choice.drive,
            barcode=choice.barcode,
            key_version=self._gate.keys.current,
            key_expires_at_ms=int((time.time() + KEY_SECONDS) * 1000),
        )
        self._waits.pop(request.name, None)
        self._tell_gate(placed)
        self._renewed(placed)
        return True

    def _choose(self, request: Request) -> Choice | str:
        """Or why there is nothing to be chosen now."""
        held = [other for other in self.requests.all() if other.state.holds]
        taken = {other.barcode for other in held if other.barcode is not None}
        free = [name for name in self._house.drive_addresses() if name not in {other.drive for other in held}]
        if request.volume is None:
            return self._choose_scratch(free, taken)
        if request.volume in taken:
            return f"cartridge {request.volume} is granted to somebody else"
        element = self._inventory.find(request.volume) if request.volume in self._inventory else None
        if element is None:
            return f"cartridge {request.volume} is not in the library"
        if element.type is ElementType.DRIVE:
            return self._choose_loaded(element, request.volume, free)
        suitable = [name for name in self._empty(free) if self._fits(name, request.volume, write=request.write)]
        return Choice(suitable[0], request.volume) if suitable else "no drive that fits is free"

    def _choose_loaded(self, element: Element, barcode: str, free: list[str]) -> Choice | str:
        names = {address: name for name, address in self._house.drive_addresses().items()}
        name = names.get(element.address)
        if name not in free or (reason := self._house.drives[name].in_use()) is not None:
            return f"cartridge {barcode} is in use in drive {element.index}" + (f": {reason}" if name in free else "")
        return Choice(name, barcode)

    def _choose_scratch(self, free: list[str], taken: set[str]) -> Choice | str:
        empty = list(self._empty(free))
        if not empty:
            return "no drive is free"
        for element in self._inventory.elements(ElementType.STORAGE):
            if element.barcode is None or element.barcode in taken or not self._is_scratch(element.barcode):
                continue
            for name in empty:
                if self._fits(name, element.barcode, write=True):
                    return Choice(name, element.barcode)
        return "no blank cartridge that fits a free drive is in a storage slot"

    def _empty(self, names: list[str]) -> Iterator[str]:
        addresses = self._house.drive_addresses()
        return (name for name in names if self._inventory.element(addresses[name]).barcode is None)

    def _is_scratch(self, barcode: str) -> bool:
        told = self._house.describe(barcode)
        return not (told["problem"] or told["used_bytes"] or told["worm"] or told["write_protected"])

    def _fits(self, drive: str, barcode: str, *, write: bool) -> bool:
        medium = MEDIA.get(str(self._house.describe(barcode)["medium"]))
        generation = self._house.drives[drive].model.generation
        return medium is not None and (can_write if write else can_read)(generation, medium)

    # ---- mounting ---------------------------------------------------------------------------------------------------

    def _mount(self, request: Request) -> bool:
        assert request.barcode is not None and request.drive is not None
        address = self._house.drive_addresses().get(request.drive)
        try:
            element = self._inventory.find(request.barcode)
            if address is None or element is None:
                raise Incompatible(
                    f"{request.drive if address is None else request.barcode} is no longer in the library"
                )
            self._house.robot.move(element.address, address, manner=Manner.HOST)
        except _TROUBLE as error:
            self._end(request, Step.FAIL, f"cartridge {request.barcode} cannot be mounted: {error}")
            return True
        granted = self.requests.step(request.name, Step.GRANT)
        self._renewed(granted)
        self._tell_gate(granted)
        log.info("granted", request=request.name, drive=request.drive, barcode=request.barcode)
        return True

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _look_after(self, request: Request) -> bool:
        if self._leases.get(request.name, 0.0) > self._clock():
            return False
        log.warning("the lease of a grant has ended", request=request.name, drive=request.drive)
        self._end(request, Step.FREE, f"it was not renewed for {request.lease_seconds:g} s")
        return True

    def _end(self, request: Request, ends_as: Step, reason: str) -> None:
        self._over(self.requests.step(request.name, Step.END, ends_as=ends_as, reason=reason))

    def _over(self, request: Request) -> None:
        self._leases.pop(request.name, None)
        self._tell_gate(request)
        self._house.look_again()

    def _free(self, request: Request) -> bool:
        """The drive gives back its volume: first its sessions end, then what they reserved, then it goes home.
        A cartridge that the robot never brought, or that somebody took, stays where it is."""
        waited = self._clock() - self._ended_at.setdefault(request.name, self._clock())
        manner = Manner.FORCE if waited > FORCE_SECONDS else Manner.HOST
        drive, address = (
            self._house.drives.get(request.drive or ""),
            self._house.drive_addresses().get(request.drive or ""),
        )
        if drive is not None and address is not None:
            principal = Principal.key(request.name)
            if manner is Manner.HOST and any(nexus.principal == principal for nexus in drive.nexuses.copy()):
                return False
            try:
                drive.forget_reservations(principal)
                self._carry_home(request, self._inventory.element(address), manner)
            except _TROUBLE as error:
                self._waits[request.name] = f"the drive cannot be freed yet: {error}"
                return False
        self.requests.step(request.name, request.ends_as)
        self._ended_at.pop(request.name, None)
        self._leases.pop(request.name, None)
        self._waits.pop(request.name, None)
        return True

    def _carry_home(self, request: Request, element: Element, manner: Manner) -> None:
        if element.barcode is None or element.barcode != request.barcode:
            return
        home = home_of(self._inventory, element)
        if home is None:
            raise RobotError("no slot is free for its cartridge")
        self._house.robot.move(element.address, home, manner=manner)

    # ---- leases and the gate ----------------------------------------------------------------------------------------

    def _renewed(self, request: Request) -> None:
        if request.state in (State.PLACING, State.MOUNTING, State.GRANTED):
            self._leases[request.name] = self._clock() + request.lease_seconds

    def _tell_gate(self, request: Request) -> None:
        if request.state in (State.PLACING, State.MOUNTING, State.GRANTED):
            mounted = request.state is State.GRANTED
            self._gate.extend(request.grant, LEASE_SECONDS, request.key_expires_at_ms, mounted=mounted)
        elif request.key_expires_at_ms:
            self._gate.end(request.grant, request.key_expires_at_ms)
