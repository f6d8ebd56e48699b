"""The broker: who makes grants of requests."""

from __future__ import annotations

from typing import Annotated

from appliance.failures import Failure, OperatorError
from appliance.operations.request import broker_of
from appliance.operations.verb import Nothing, OnLibrary, Result, Scope, Volatile, verb


class BrokerStatus(Result):
    """up: whether it makes grants and counts leases; why: why not. live: how many requests have a grant, waiting: how
    many wait."""

    up: bool
    why: str
    live: Annotated[int, Volatile()]
    waiting: Annotated[int, Volatile()]


@verb("broker.show", Scope.READ)
def show(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Show whether the broker serves requests."""
    broker = broker_of(context)
    states = [request.state for request in broker.requests.all()]
    live = sum(state.live for state in states)
    waiting, down = sum(not state.over and not state.holds for state in states), broker.down
    return BrokerStatus(up=not down, why=down, live=live, waiting=waiting)


@verb("broker.stop", Scope.ADMINISTER, changes="broker.show")
def stop(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Stop the broker: nothing is granted or renewed. Live grants go on, and nothing is missed meanwhile."""
    with context.files.changing:
        broker_of(context).stop()
    context.log.warning("the broker was stopped by the operator")
    return show(context, parameters)


@verb("broker.start", Scope.ADMINISTER, changes="broker.show")
def start(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Start the broker after `broker stop`, or at once when it has failed; every lease begins anew."""
    with context.files.changing:
        try:
            broker_of(context).start()
        except (OSError, RuntimeError) as error:
            message = f"the broker cannot be started: {error}; it is tried again by itself"
            raise OperatorError(Failure.REFUSED, message) from error
    context.log.info("the broker was started by the operator")
    return show(context, parameters)
