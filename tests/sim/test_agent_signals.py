"""Hot backups by schedules that a seed makes: every signal lost, late and doubled, and everybody who may die does."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from tests.sim.agent_machine import Outcome, Site
from tests.sim.agent_world import ALL, Fates

SCHEDULES = int(os.environ.get("TAPEBAY_TEST_SCHEDULES", "400"))  # of each test
SEED = int(os.environ.get("TAPEBAY_TEST_SEED", "1"))
STRENGTH = {"tapes_full": 0.95, "agent_dies": 0.5, "appliance_dies": 0.5, "small_store": 0.5}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is logged costs more time than what is done."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("agents"))
    yield made
    made.close()


def run(site: Site, seed: int, fates: Fates) -> Outcome:
    try:
        return site.run(seed, fates)
    except AssertionError as error:
        raise AssertionError(f"TAPEBAY_TEST_SEED={seed} {fates}: {error}") from error


def test_a_schedule_without_accidents_is_a_backup(site: Site) -> None:
    for seed in range(20):
        outcome = run(site, SEED + seed, Fates())
        assert (outcome.state, outcome.waited_seconds < 1) == ("done", True), outcome


@pytest.mark.parametrize("fate", ALL)
def test_one_kind_of_accident(site: Site, fate: str) -> None:
    """Each kind by itself, often; some of its backups are made all the same, or none, and all end by name."""
    ends: Counter[str] = Counter()
    for number in range(max(10, SCHEDULES // 20)):
        chance = random.Random(number).uniform(0.02, STRENGTH.get(fate, 0.3))
        ends[run(site, SEED + number, Fates(**{fate: chance})).state] += 1
    assert ends["done"], ends


def test_all_of_them_at_once(site: Site) -> None:
    reasons: Counter[str] = Counter()
    for number in range(SCHEDULES):
        choose = random.Random(f"{SEED} {number}")
        chosen = choose.sample(ALL, choose.randrange(1, 6))
        fates = Fates(**{name: choose.uniform(0.01, STRENGTH.get(name, 0.15)) for name in chosen})
        outcome = run(site, SEED + number, fates)
        reasons[outcome.state] += 1
    assert {"done", "refused", "dead"} <= set(reasons), reasons
