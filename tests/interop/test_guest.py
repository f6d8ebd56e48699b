"""The guest harness itself, against an independent target: when this fails, it is not Tapebay's fault."""

import pytest

from tests.interop import guest
from tests.interop.guest import Step
from tests.support import packages
from tests.support.tgt import TgtTarget

pytestmark = pytest.mark.guest


def test_a_guest_logs_in_to_an_independent_target() -> None:
    packages.require("tgt", *guest.PACKAGES)
    with TgtTarget() as target:
        run = guest.run(
            [
                Step("iscsid", "start_iscsid"),
                Step("node", "add_node"),
                Step("login", "log_in 3"),
                Step("devices", "echo $TAPE0 $DISK"),
                Step("write", "head -c 1M /dev/urandom >/tmp/a && dd if=/tmp/a of=$TAPE0 bs=64k 2>/dev/null"),
                Step("compare", "mt -f $TAPE0 rewind && dd if=$TAPE0 bs=64k 2>/dev/null | cmp - /tmp/a"),
                Step("status of a failure", "sh -c 'exit 7'", status=7),
                Step("logout", "log_out"),
            ],
            portal=f"{guest.HOST_ADDRESS}:{target.port}",
            target=target.target_name,
        )
    assert run["devices"].split() == ["/dev/nst0", "/dev/sda"]
    run.require_quiet_kernel()


def test_a_failing_step_ends_the_run_and_shows_everything() -> None:
    packages.require(*guest.PACKAGES)
    with pytest.raises(AssertionError, match=r"guest step 'bad' ended with status 3\n(.|\n)*before it(.|\n)*oh dear"):
        guest.run(
            [Step("good", "echo before it"), Step("bad", "echo oh dear; (exit 3)"), Step("never", "true")],
            portal="10.0.2.2:1",
            target="iqn.x",
        )
