"""Steps that several guest tests begin and end with."""

from collections.abc import Iterable

from tests.interop import guest
from tests.interop.guest import GuestRun, Step
from tests.support.appliance import GUEST_SEES_HOST_AS, Appliance

DEVICES = ["mediumx", "tape", "tape", "disk"]

LOGIN = (
    Step("start iscsid", "start_iscsid"),
    Step("discovery", "discover"),
    Step("login", f"log_in {len(DEVICES)}"),
    Step("devices", "lsscsi -g"),
)
LOGOUT = (Step("logout", "log_out"),)


def run_in_guest(
    appliance: Appliance, steps: Iterable[Step], *, allowed: str | None = None, **options: object
) -> GuestRun:
    """Run steps between discovery, login and logout; the kernel must not have complained but of what is `allowed`."""
    done = guest.run(
        [*LOGIN, *steps, *LOGOUT],
        portal=f"{GUEST_SEES_HOST_AS}:{appliance.port}",
        target=appliance.target_name,
        **options,  # type: ignore[arg-type]
    )
    done.require_quiet_kernel(allowed=allowed)
    assert [line.split()[1] for line in done["devices"].splitlines()] == DEVICES
    return done
