"""The broker: whose turn it is, which volumes and devices, and the grant that comes of it. One thread.

Policy is first come, first served (selection.py): a request names volumes or takes scratch ones, and devices that only
grants show. Every step is a transaction. What is asked of the robot comes between two steps and is asked again after a
crash, when the inventory says where the cartridge is: so a move that was begun is finished, and nothing is done twice.

The broker is not in the way of data, and no login asks it: it tells the gate which grants are live. While it is down
nothing is granted and nothing is missed: grants stay what they are for as long as the gate holds them without it.
When its thread ends unasked, wherever that is, another one begins with what the database says (lasting_thread.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Unpack

import structlog

from appliance.access.gate import Gate
from appliance.access.key_view import InitiatorPort
from appliance.access.keys import ANY_VOLUME, Capability, GrantedUnit, Key, initiator_hash, tag_hash, volume_hash
from appliance.broker.hands import Hands, ServedLibrary
from appliance.broker.requests import NoSuchRequest, Options, Request, RequestedUnit, Requests, Wanted
from appliance.broker.selection import Selection, Wait
from appliance.broker.states import RequestState, RequestStateError, RequestStep
from appliance.lasting_thread import LastingThread, Stopping
from scsi_targets.devices.changer.robot import Manner, RobotError
from scsi_targets.t10.sense import CheckCondition
from vlib_images.errors import CartridgeError
from vlib_images.library.actor import acting_as
from vlib_images.library.elements import InventoryError, NoSuchCartridge
from vlib_images.library.inventory import Inventory

log = structlog.get_logger(__name__)

OUTAGE_SECONDS: Final = 24 * 3600.0
LOOK_SECONDS: Final = 1.0  # how often the broker looks whether what a request waits for has come
RETRY_SECONDS: Final = 0.1  # the same for sessions that end
FORCE_SECONDS: Final = 45.0  # a grant that is over gives its drive back after that, whatever still runs there
ACTOR: Final = "broker"

_TROUBLE = (RobotError, InventoryError, CartridgeError, CheckCondition)


class NeverGranted(Exception):
    """What is asked for can never be had; str() says why, to an operator."""


class NoSuchDevice(Exception):
    """There is no device of that name behind the gate."""


class BrokerDown(Exception):
    """The broker is stopped, or has failed."""


class Broker:
    """start() it once the library is made, stop() it before the library closes; both also in between, while grants are
    used. outage_seconds: for how long grants live while it is stopped."""

    def __init__(
        self,
        house: ServedLibrary,
        inventory: Inventory,
        requests: Requests,
        gate: Gate,
        *,
        outage_seconds: float = OUTAGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tells the gate at once which grants are live and which are over, and lends their drives, before the first
        login."""
        self.requests = requests
        self._house, self._inventory, self._gate, self._clock = house, inventory, gate, clock
        self._outage_seconds = outage_seconds
        self._hands = Hands(house, inventory)
        self._thread = LastingThread("broker", self._begin, self._work_safely)
        self._leases: dict[str, float] = {}  # when the lease of a grant ends
        self._ended_at: dict[str, float] = {}
        self._waits: dict[str, str] = {}  # why a request waits
        self._selection: Selection | None = None  # what is free, until something moves
        self._kept: set[str] = set()  # drives that are kept for a request which waits for several
        self._logins: deque[tuple[bytes, InitiatorPort, Mapping[int, int]]] = deque()  # to be kept
        gate.on_first_login = self._on_first_login
        self._lend_and_tell()
        for request in requests.all():
            self._bind(request)

    @property
    def up(self) -> bool:
        """Whether it serves requests."""
        return self._thread.up

    @property
    def down(self) -> str:
        """Why it serves none, for an operator; "": it does."""
        if self.up:
            return ""
        if failure := self._thread.failure:
            return f"the broker has failed ({failure}) and is started anew within a minute"
        return "the broker is stopped"

    @property
    def failures(self) -> int:
        """How often it has failed since it was made."""
        return self._thread.failures

    def start(self) -> None:
        """Serve requests on a thread. No renewal was missed while nobody took it: every lease begins anew. Raises
        StateDamaged, OSError, RuntimeError (no thread can be had); it is tried again by itself then."""
        self._thread.start()

    def stop(self) -> None:
        """After what is being done now. Requests and grants stay what they are."""
        self._thread.stop()

    def _begin(self) -> None:
        """The thread before may have ended in the middle of a step: the database knows which were made."""
        with self.requests.changing:
            self.requests.read_again()
            self._lend_and_tell()
            for request in self.requests.all():
                self._renewed(request)

    def _lend_and_tell(self) -> None:
        requests = self.requests.all()
        self._hands.lend_again([request for request in requests if request.state.holds])
        for request in requests:
            self._tell_gate(request)

    # ---- for verbs --------------------------------------------------------------------------------------------------

    def ask(self, initiator: str, wanted: tuple[Wanted, ...], **options: Unpack[Options]) -> Request:
        """A new request. Raises BrokerDown, NoSuchCartridge, NoSuchDevice, NeverGranted, TooManyRequests, OSError."""
        self._check_up()
        self._check(wanted)
        made = self.requests.create(initiator, wanted, **options)
        self.wake()
        return made

    def _check_up(self) -> None:
        if down := self.down:
            raise BrokerDown(f"{down}: nothing is granted or renewed; start it: tapebay broker start")

    def _check(self, wanted: tuple[Wanted, ...]) -> None:
        for each in wanted:
            if each.volume is not None and each.volume not in self._inventory:
                raise NoSuchCartridge(f"the library has no cartridge {each.volume}")
            if each.device is not None and each.device not in self._house.gate_luns():
                raise NoSuchDevice(f"no device {each.device} is behind the gate")
            if each.group not in self._house.groups():
                raise NoSuchDevice(f"there is no group {each.group} of drives; see [gate.groups] in tapebay.toml")
        names = [each.volume or each.device for each in wanted if each.volume or each.device]
        if len(set(names)) != len(names):
            raise NeverGranted("a volume or device is asked for twice")
        for group in {each.group for each in wanted if each.device is None}:
            asked = sum(each.device is None and each.group == group for each in wanted)
            if asked > (there := len(self._house.groups()[group])):
                raise NeverGranted(f"{asked} drives of group {group} are asked for, and there are {there}")

    def end(self, name: str, ends_as: RequestStep, reason: str) -> Request:
        """The request or its grant is not wanted any more, or revoked: at once its key does nothing, and its drives are
        freed once the broker is up. Raises NoSuchRequest, RequestStateError, OSError."""
        with self.requests.changing:  # the thread may be about to place it
            if self.requests.get(name).state.holds:
                request = self.requests.step(name, RequestStep.END, ends_as=ends_as, reason=reason)
            else:
                request = self.requests.step(name, RequestStep.CANCEL, reason=reason)
        if request.state is RequestState.ENDING:
            self._over(request)
        self.wake()
        return request

    def renew(self, name: str) -> float:
        """The grant is still used; for how many seconds its lease holds from now on. Raises BrokerDown, NoSuchRequest,
        RequestStateError."""
        self._check_up()
        with self.requests.changing:  # the thread may be about to end it
            request = self.requests.get(name)
            if not request.state.live:
                raise RequestStateError(f"the request is {request.state.value}: there is no grant to be renewed")
            self._renewed(request)
        return request.lease_seconds

    def key(self, request: Request) -> Key | None:
        """The key of a grant; always the same. None: there is none (yet, or any more)."""
        if not request.state.live:
            return None
        units = tuple(
            GrantedUnit(unit.named, unit.permissions, volume_hash(unit.volume) if unit.volume else ANY_VOLUME)
            for unit in request.units
        )
        capability = Capability(
            request.key_version,
            request.key_expires_at_ms,
            request.grant,
            initiator_hash(request.initiator),
            units,
            tag_hash(request.tag),
        )
        try:
            return self._gate.keys.mint(self._gate.target_name, capability)
        except KeyError:  # its working key is revoked
            return None

    def denied(self, request: Request) -> str:
        """Why its key opens nothing, or would open nothing; "": it is good. Whoever denies ends what is granted at
        once; those that wait, were just being placed, or outlived a crash in between, the broker ends."""
        if self._gate.denies(tag_hash(request.tag)):
            return f"its policy tag {request.tag} is denied"
        if request.state.live and request.key_version not in self._gate.keys.keys:
            return "the working key of its key is denied"
        return ""

    def why(self, request: Request) -> str:
        """Why it waits, or why it ended."""
        waits = self._waits.get(request.name, "")
        return request.reason or waits or ("" if request.state.over else self.down)

    def lease_left(self, request: Request) -> float | None:
        """Seconds; None: there is no lease."""
        ends_at = self._leases.get(request.name)
        return None if ends_at is None else max(0.0, ends_at - self._clock())

    def wake(self) -> None:
        """There is something to be looked at."""
        self._thread.wake()

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _work_safely(self, stopping: Stopping) -> float:
        """A fault of ours ends no grant and not the thread."""
        try:
            with acting_as(ACTOR):
                return self.work(stopping)
        except Exception:
            log.exception("the broker failed; it tries again")
            return LOOK_SECONDS

    def work(self, stopping: Stopping = lambda: False) -> float:
        """Everything that can be done now; after how many seconds there may be more."""
        moved, self._selection, self._kept = self._keep_logins(), None, set()
        requests = self.requests.all()
        for request in requests:
            if stopping() or request.state.over:
                continue
            try:
                self._tell_gate(request)
                moved |= self._advance(request)
            except RequestStateError:  # somebody ended it meanwhile
                moved = True
            except OSError as error:
                log.error("a request cannot go on; it is tried again", request=request.name, reason=str(error))
            except Exception:
                log.exception("a request cannot go on; it is tried again", request=request.name)
        if moved:
            return 0.0
        return RETRY_SECONDS if any(request.state is RequestState.ENDING for request in requests) else LOOK_SECONDS

    def _advance(self, request: Request) -> bool:
        """One step, if it can be done now. Raises OSError, RequestStateError."""
        if request.state is RequestState.ENDING:
            return self._free(request)
        if reason := self.denied(request):
            self._refuse(request, reason)
            return True
        if request.state in (RequestState.QUEUED, RequestState.WARRANTED):
            return self._place(request)
        if self._look_after(request):
            return True
        if request.state is RequestState.PLACING and request.chosen:
            self.requests.step(request.name, RequestStep.MOUNT)
            return True
        return request.state is RequestState.MOUNTING and self._mount(request)

    def _refuse(self, request: Request, reason: str) -> None:
        if request.state.holds:
            self._end(request, RequestStep.FAIL, reason)
        else:
            self.requests.step(request.name, RequestStep.FAIL, reason=reason)

    # ---- volumes and devices, in one decision -----------------------------------------------------------------------

    def _place(self, request: Request) -> bool:
        if self._selection is None:
            self._selection = Selection(self._house, self._inventory, self.requests.all())
            self._selection.keep(self._kept)
        selection = self._selection
        if request.by_gate:
            units = selection.volumes_only(request.wanted, request.priority)
        else:
            units = selection.choose(request.wanted)
        if isinstance(units, Wait):
            self._waits[request.name] = units.reason
            self._kept |= units.kept
            selection.keep(units.kept)
            return selection.looking  # goes on at once
        self._selection = None
        if not self._hands.lend(request.name, units):
            return False  # somebody took a drive just now
        try:
            self._placed(request, units)
        except BaseException:
            self._hands.take_back(request.name)
            raise
        return True

    def _placed(self, request: Request, units: tuple[RequestedUnit, ...]) -> None:
        if request.state is RequestState.QUEUED:
            self.requests.step(request.name, RequestStep.WARRANT)
        placed = self.requests.step(
            request.name,
            RequestStep.PLACE,
            units=units,
            key_version=self._gate.keys.current,
            key_expires_at_ms=int((time.time() + self._gate.key_seconds) * 1000),
        )
        self._waits.pop(request.name, None)
        self._renewed(placed)
        self._tell_gate(placed)

    # ---- mounting ---------------------------------------------------------------------------------------------------

    def _mount(self, request: Request) -> bool:
        for unit in request.units:
            try:
                self._hands.bring(unit)
            except _TROUBLE as error:
                self._end(
                    request, RequestStep.FAIL, f"{unit.device} cannot be had with {unit.volume or 'nothing'}: {error}"
                )
                return True
        granted = self.requests.step(request.name, RequestStep.GRANT)
        self._renewed(granted)
        self._tell_gate(granted)
        log.info("granted", request=request.name, devices=[(unit.device, unit.volume) for unit in granted.units])
        return True

    # ---- first logins -----------------------------------------------------------------------------------------------

    def _on_first_login(self, grant: bytes, port: InitiatorPort, luns: Mapping[int, int]) -> None:
        self._logins.append((grant, port, luns))
        self.wake()

    def _keep_logins(self) -> bool:
        """To whom keys are bound, and what the gate chose, outlives a restart."""
        kept = False
        while self._logins:
            grant, (_, isid, portal_group_tag), luns = self._logins[0]
            try:
                request = self.requests.get(grant.hex())
                units = tuple(self._chosen(unit, luns) for unit in request.units)
                self.requests.step(
                    request.name, RequestStep.FIRST_LOGIN, port=(isid.hex(), portal_group_tag), units=units
                )
                log.info("first login of a grant", request=request.name, devices=[unit.device for unit in units])
            except RequestStateError:  # it ends meanwhile, and then what it has is given back; or is over
                if request.state.over:
                    self._hands.take_back(request.name)
            except NoSuchRequest:
                self._hands.take_back(grant.hex())
            except OSError as error:
                log.error("a first login cannot be kept; it is tried again", grant=grant.hex(), reason=str(error))
                return kept
            self._logins.popleft()
            kept = True
        return kept

    def _chosen(self, unit: RequestedUnit, luns: Mapping[int, int]) -> RequestedUnit:
        lun = luns.get(unit.named)
        return unit if lun is None else replace(unit, lun=lun, device=self._names()[lun])

    def _names(self) -> dict[int, str]:
        return {lun: name for name, lun in self._house.gate_luns().items()}

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _look_after(self, request: Request) -> bool:
        reason = f"it was not renewed for {request.lease_seconds:g} s"
        with self.requests.changing:  # whoever renews it now is in time, or told that it is too late
            if self._leases.get(request.name, 0.0) > self._clock():
                return False
            ended = self.requests.step(request.name, RequestStep.END, ends_as=RequestStep.FREE, reason=reason)
        log.warning("the lease of a grant has ended", request=request.name)
        self._over(ended)
        return True

    def _end(self, request: Request, ends_as: RequestStep, reason: str) -> None:
        self._over(self.requests.step(request.name, RequestStep.END, ends_as=ends_as, reason=reason))

    def _over(self, request: Request) -> None:
        self._leases.pop(request.name, None)
        self._tell_gate(request)
        self._house.look_again()

    def _free(self, request: Request) -> bool:
        """The devices are given back: first the sessions end, then what they reserved, then the volumes go home."""
        waited = self._clock() - self._ended_at.setdefault(request.name, self._clock())
        manner = Manner.FORCE if waited > FORCE_SECONDS else Manner.LENT
        for unit in request.units:
            try:
                if not self._hands.give_back(request.name, unit, manner):
                    return False
            except _TROUBLE as error:
                self._waits[request.name] = f"{unit.device} cannot be freed yet: {error}"
                return False
        self._hands.take_back(request.name)
        self.requests.step(request.name, request.ends_as)
        for kept in (self._ended_at, self._leases, self._waits):
            kept.pop(request.name, None)
        return True

    # ---- leases and the gate ----------------------------------------------------------------------------------------

    def _renewed(self, request: Request) -> None:
        if request.state.live:
            self._leases[request.name] = self._clock() + request.lease_seconds

    def _tell_gate(self, request: Request) -> None:
        if request.state.live:
            self._gate.extend(request.grant, self._outage_seconds, mounted=request.state is RequestState.GRANTED)
            if request.by_gate and not request.chosen:
                self._gate.offer(request.grant, self._candidates(request))
        elif request.key_expires_at_ms:
            self._gate.revoke(request.grant, request.key_expires_at_ms)

    def _candidates(self, request: Request) -> dict[int, tuple[int, ...]]:
        selection, luns = Selection(self._house, self._inventory, ()), self._house.gate_luns()
        return {
            unit.named: tuple(luns[name] for name in selection.candidates(unit, each.group))
            for unit, each in zip(request.units, request.wanted, strict=True)
            if unit.key_lun is not None
        }

    def _bind(self, request: Request) -> None:
        """After a restart."""
        if request.state.live and request.port is not None:
            isid, portal_group_tag = request.port
            luns = {unit.key_lun: unit.lun for unit in request.units if unit.key_lun is not None}
            self._gate.bind(request.grant, (request.initiator, bytes.fromhex(isid), portal_group_tag), luns)
