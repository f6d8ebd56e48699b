"""The broker: whose turn it is, which volume and which drive, and the grant that comes of it. One thread.

Policy is first come, first served (selection.py): a request names volumes or takes scratch ones, and devices that only
grants show. Every step is a transaction. What is asked of the robot comes between two steps and is asked again after a
crash, when the inventory says where the cartridge is: so a move that was begun is finished, and nothing is done twice.

The broker is not in the way of data, and no login asks it: it tells the gate which grants are live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from appliance.access.gate import LEASE_SECONDS, Gate
from appliance.access.keys import ANY_VOLUME, Capability, GrantedUnit, Key, initiator_hash, volume_hash
from appliance.broker.requests import Request, Requests, Unit, Wanted
from appliance.broker.selection import Selection, Stock
from appliance.broker.states import NotNow, State, Step
from scsi_targets.devices.changer.robot import Incompatible, Manner, Robot, RobotError
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.t10.sense import CheckCondition
from vlib_images.errors import CartridgeError
from vlib_images.library.actor import acting_as
from vlib_images.library.elements import Element, InventoryError, NoSuchCartridge
from vlib_images.library.homes import home_of
from vlib_images.library.inventory import Inventory

log = structlog.get_logger(__name__)

KEY_SECONDS: Final = 900.0  # for the first login
DEFAULT_LEASE_SECONDS: Final = 180.0  # three renewals of a minute
LOOK_SECONDS: Final = 1.0  # how often the broker looks whether what a request waits for has come
RETRY_SECONDS: Final = 0.1  # the same for sessions that end
FORCE_SECONDS: Final = 45.0  # a grant that is over gives its drive back after that, whatever still runs there
ACTOR: Final = "broker"

_TROUBLE = (RobotError, InventoryError, CartridgeError, CheckCondition)


class NeverGranted(Exception):
    """What is asked for can never be had; str() says why, to an operator."""


class NoSuchDevice(Exception):
    """There is no device of that name behind the gate."""


class House(Stock, Protocol):
    """What the broker asks of the library that is served."""

    robot: Robot

    def gate_units(self) -> Mapping[str, LogicalUnit]:
        """What stands behind the gate, by name."""

    def look_again(self) -> None:
        """Every session is to ask anew what it sees."""


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

    def ask(self, initiator: str, wanted: tuple[Wanted, ...], *, lease_seconds: float) -> Request:
        """A new request. Raises NoSuchCartridge, NeverGranted, TooManyRequests, OSError."""
        self._check(wanted)
        made = self.requests.create(initiator, wanted, lease_seconds=lease_seconds)
        self._wake()
        return made

    def _check(self, wanted: tuple[Wanted, ...]) -> None:
        for each in wanted:
            if each.volume is not None and each.volume not in self._inventory:
                raise NoSuchCartridge(f"the library has no cartridge {each.volume}")
            if each.device is not None and each.device not in self._house.gate_luns():
                raise NoSuchDevice(f"no device {each.device} is behind the gate")
        names = [each.volume or each.device for each in wanted if each.volume or each.device]
        if len(set(names)) != len(names):
            raise NeverGranted("a volume or device is asked for twice")
        drives = sum(each.device is None for each in wanted)
        if drives > len(self._house.drive_addresses()):
            raise NeverGranted(f"{drives} drives are asked for, and the library has {len(self._house.drives)}")

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
        """The key of a request that has its devices; always the same. None: it has none (yet, or any more)."""
        if not request.state.holds or request.state is State.ENDING:
            return None
        units = tuple(
            GrantedUnit(unit.lun, unit.permissions, volume_hash(unit.volume) if unit.volume else ANY_VOLUME)
            for unit in request.units
        )
        capability = Capability(
            request.key_version, request.key_expires_at_ms, request.grant, initiator_hash(request.initiator), units
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

    # ---- volumes and devices, in one decision -----------------------------------------------------------------------

    def _place(self, request: Request) -> bool:
        units = Selection(self._house, self._inventory, self.requests.all()).choose(request.wanted)
        if isinstance(units, str):
            self._waits[request.name] = units
            return False
        if request.state is State.QUEUED:
            self.requests.step(request.name, Step.WARRANT)
        placed = self.requests.step(
            request.name,
            Step.PLACE,
            units=units,
            key_version=self._gate.keys.current,
            key_expires_at_ms=int((time.time() + KEY_SECONDS) * 1000),
        )
        self._waits.pop(request.name, None)
        self._tell_gate(placed)
        self._renewed(placed)
        return True

    # ---- mounting ---------------------------------------------------------------------------------------------------

    def _mount(self, request: Request) -> bool:
        for unit in request.units:
            try:
                self._bring(unit)
            except _TROUBLE as error:
                self._end(request, Step.FAIL, f"{unit.device} cannot be had with {unit.volume or 'nothing'}: {error}")
                return True
        granted = self.requests.step(request.name, Step.GRANT)
        self._renewed(granted)
        self._tell_gate(granted)
        log.info("granted", request=request.name, devices=[(unit.device, unit.volume) for unit in granted.units])
        return True

    def _bring(self, unit: Unit) -> None:
        """The volume into its drive, unless it is there. Raises what robots do."""
        if unit.device not in self._house.gate_luns():
            raise Incompatible(f"{unit.device} is no longer in the library")
        if unit.volume is None:
            return
        element = self._inventory.find(unit.volume)
        if element is None:
            raise Incompatible(f"{unit.volume} is no longer in the library")
        self._house.robot.move(element.address, self._house.drive_addresses()[unit.device], manner=Manner.HOST)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _look_after(self, request: Request) -> bool:
        if self._leases.get(request.name, 0.0) > self._clock():
            return False
        log.warning("the lease of a grant has ended", request=request.name)
        self._end(request, Step.FREE, f"it was not renewed for {request.lease_seconds:g} s")
        return True

    def _end(self, request: Request, ends_as: Step, reason: str) -> None:
        self._over(self.requests.step(request.name, Step.END, ends_as=ends_as, reason=reason))

    def _over(self, request: Request) -> None:
        self._leases.pop(request.name, None)
        self._tell_gate(request)
        self._house.look_again()

    def _free(self, request: Request) -> bool:
        """The devices are given back: first the sessions end, then what they reserved, then the volumes go home."""
        waited = self._clock() - self._ended_at.setdefault(request.name, self._clock())
        manner = Manner.FORCE if waited > FORCE_SECONDS else Manner.HOST
        for unit in request.units:
            try:
                if not self._give_back(request, unit, manner):
                    return False
            except _TROUBLE as error:
                self._waits[request.name] = f"{unit.device} cannot be freed yet: {error}"
                return False
        self.requests.step(request.name, request.ends_as)
        for kept in (self._ended_at, self._leases, self._waits):
            kept.pop(request.name, None)
        return True

    def _give_back(self, request: Request, unit: Unit, manner: Manner) -> bool:
        """Whether it is done; a device that is gone has nothing to be given back."""
        device = self._house.gate_units().get(unit.device)
        if device is None:
            return True
        principal = Principal.key(request.name)
        if manner is Manner.HOST and any(nexus.principal == principal for nexus in device.nexuses.copy()):
            return False
        device.forget_reservations(principal)
        if unit.volume is not None:
            self._carry_home(unit.volume, self._inventory.element(self._house.drive_addresses()[unit.device]), manner)
        return True

    def _carry_home(self, volume: str, element: Element, manner: Manner) -> None:
        """A cartridge that the robot never brought, or that somebody took, stays where it is."""
        if element.barcode != volume:
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
