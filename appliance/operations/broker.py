"""The broker: who makes grants of requests."""

from __future__ import annotations

from typing import Annotated

from appliance.operations.request import broker_of
from appliance.operations.verb import Nothing, OnLibrary, Result, Scope, Volatile, verb


class BrokerStatus(Result):
    """up: whether it makes grants and counts leases. live: how many requests have a grant, waiting: how many wait."""

    up: bool
    live: Annotated[int, Volatile()]
    waiting: Annotated[int, Volatile()]


@verb("broker.show", Scope.READ)
def show(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Show whether the broker serves requests."""
    broker = broker_of(context)
    states = [request.state for request in broker.requests.all()]
    live = sum(state.live for state in states)
    return BrokerStatus(up=broker.up, live=live, waiting=sum(not state.over and not state.holds for state in states))


@verb("broker.stop", Scope.ADMINISTER, changes="broker.show")
def stop(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Stop the broker: nothing is granted or renewed. Live grants go on, and nothing is missed meanwhile."""
    with context.files.changing:
        broker_of(context).stop()
    context.log.warning("the broker was stopped by the operator")
    return show(context, parameters)


@verb("broker.start", Scope.ADMINISTER, changes="broker.show")
def start(context: OnLibrary, parameters: Nothing) -> BrokerStatus:
    """Start the broker after `broker stop`; every lease begins anew."""
    with context.files.changing:
        broker_of(context).start()
    context.log.info("the broker was started by the operator")
    return show(context, parameters)
