"""Pools: cartridges that belong together, of which requests take blank ones and to which tokens may be confined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from appliance.operations import content
from appliance.operations.verb import Nothing, OnFiles, Parameters, Positional, Result, Scope, Volatile, verb

if TYPE_CHECKING:
    from appliance.settings.content import Content
    from appliance.settings.sections import PoolSettings

LOOK_SECONDS = 0.5  # how long an answer waits for what is not known yet

Name = Annotated[str, Positional("POOL"), Field(description="The pool.")]
CARTRIDGES = "Barcodes with commas: cartridges that are in it whatever the patterns of any pool say."


class PoolDetails(Result):
    """A pool. barcodes: patterns of those that are in it; cartridges: more of them, by name."""

    name: str
    barcodes: str
    cartridges: list[str]
    holds: Annotated[int, Volatile(), Field(description="How many cartridges are in it, those on the shelf too.")]
    blank: Annotated[
        int | None,
        Volatile(),
        Field(description="How many of them requests may have as scratch ones; none: the library still looks."),
    ]


class PoolDescription(Parameters):
    """What a pool is told; what is not given stays as it is, or is the default."""

    name: Name
    barcodes: Annotated[
        str | None, Field(description="The cartridges that are in it: DB*,LOG*; * and ? match any characters.")
    ] = None
    cartridges: Annotated[str | None, Field(description=CARTRIDGES)] = None


class ChangePool(PoolDescription):
    add_cartridges: Annotated[str | None, Field(description=f"More of them. {CARTRIDGES}")] = None
    remove_cartridges: Annotated[str | None, Field(description="Fewer of those that were named.")] = None


class OnePool(Parameters):
    name: Name


@verb("pool.list", Scope.READ, key=("name",), confinable=True)
def list_(context: OnFiles, parameters: Nothing) -> list[PoolDetails]:
    """List the pools."""
    return _described(context, _in_reach(context))


@verb("pool.show", Scope.READ, confinable=True)
def show(context: OnFiles, parameters: OnePool) -> PoolDetails:
    """One pool: which cartridges are in it, and how many are blank."""
    return _described(context, [_among(_in_reach(context), parameters.name)])[0]


@verb("pool.create", Scope.ADMINISTER)
def create(context: OnFiles, parameters: PoolDescription) -> PoolDetails:
    """Make a pool of cartridges that are in none. Requests that name no pool do not get them any more."""
    from appliance.settings.sections import PoolSettings

    made = content.section(PoolSettings, **_given(parameters))

    def with_it(now: Content) -> dict[str, Any]:
        return {"pools": content.and_a_new(now.pools, made, "pool")}

    content.change(context, with_it)
    return _described(context, [made])[0]


@verb("pool.change", Scope.ADMINISTER, changes="pool.show")
def change(context: OnFiles, parameters: ChangePool) -> PoolDetails:
    """Say anew which cartridges are in a pool, or name more and fewer; what is not given stays.

    Grants that are held go on; requests that wait choose by what is so then."""
    from appliance.settings.sections import PoolSettings

    added, removed = (content.names(text or "") for text in (parameters.add_cartridges, parameters.remove_cartridges))

    def changed(now: Content) -> dict[str, Any]:
        was = _among(now.pools, parameters.name)
        settings = was.model_dump() | _given(parameters)
        settings["cartridges"] = content.more_and_fewer(
            f"pool {was.name}", "cartridge", settings["cartridges"], added, removed
        )
        made = content.section(PoolSettings, **settings)
        return {"pools": [made if pool is was else pool for pool in now.pools]}

    content.change(context, changed)
    return show(context, OnePool(name=parameters.name))


@verb("pool.delete", Scope.ADMINISTER, changes="pool.show")
def delete(context: OnFiles, parameters: OnePool) -> PoolDetails:
    """Delete a pool. Its cartridges stay, and are in no pool then; tokens for it reach nothing."""
    gone = show(context, parameters)
    content.change(context, lambda now: {"pools": [pool for pool in now.pools if pool.name != gone.name]})
    return gone


def _in_reach(context: OnFiles) -> list[PoolSettings]:
    return [pool for pool in context.files.settings.pools if context.caller.reaches_pool(pool.name)]


def _among(pools: list[PoolSettings], name: str) -> PoolSettings:
    return content.found(pools, lambda pool: pool.name == name, f"pool {name}; see: tapebay pool list")


def _given(parameters: PoolDescription) -> dict[str, Any]:
    """What was given, as a [[pools]] section has it."""
    given = parameters.model_dump(include={"name", "barcodes", "cartridges"}, exclude_none=True)
    return given | ({"cartridges": content.names(given["cartridges"])} if "cartridges" in given else {})


def _described(context: OnFiles, pools: list[PoolSettings]) -> list[PoolDetails]:
    from appliance.library.pools import counts_of

    counts = counts_of(context.files, [pool.name for pool in pools], LOOK_SECONDS)
    return [
        PoolDetails(
            name=pool.name,
            barcodes=pool.barcodes,
            cartridges=pool.cartridges,
            holds=counts[pool.name].holds,
            blank=counts[pool.name].blank,
        )
        for pool in pools
    ]
