"""Options that several kinds of tests share."""

import random
import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

from tests.support import jitter

jitter.install()

# No example is late, and none is made too slowly: what a machine has to do beside is not what is tested. Else the
# profile that Hypothesis chose.
hypothesis.settings.register_profile(
    "unhurried",
    hypothesis.settings.default,
    deadline=None,
    suppress_health_check={*hypothesis.settings.default.suppress_health_check, hypothesis.HealthCheck.too_slow},
)
hypothesis.settings.load_profile("unhurried")

# A shell that runs the tests in the background has SIGINT ignored, and nohup(1) SIGHUP, and so would every program that
# they send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

DEFAULT_FUZZ_SEED = 7143


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tapebay")
    group.addoption("--fuzz-cases", type=int, default=60, help="cases for each phase of live fuzzing (default 60)")
    group.addoption("--fuzz-seed", default=str(DEFAULT_FUZZ_SEED), help="its seed: a number, or 'random'")


@pytest.fixture(scope="session")
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    chosen: str = request.config.getoption("--fuzz-seed")
    return random.SystemRandom().randrange(1 << 32) if chosen == "random" else int(chosen)


@pytest.fixture(scope="session")
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    cases: int = request.config.getoption("--fuzz-cases")
    return cases


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """A command that a test runs within its own process sets the log up; the next test begins as if it had not."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
