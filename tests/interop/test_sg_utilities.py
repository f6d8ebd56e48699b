"""sg3_utils ask every device what they can; the answers are well-formed and true."""

import re

import pytest

from tests.interop.guest import INITIATOR_NAME, Step
from tests.interop.session import run_in_guest
from tests.support import packages
from tests.support.appliance import Appliance

pytestmark = pytest.mark.guest

# Work on every device. {sg} is its generic device.
ANY_DEVICE = {
    "inquiry": "sg_inq {sg}",
    "inquiry by bytes": "sg_raw --request=36 {sg} 12 00 00 00 24 00",
    "all vital product data": "sg_vpd --all {sg}",
    "serial number": "sg_vpd --page=sn {sg}",
    "identification": "sg_vpd --page=di {sg}",
    "all mode pages": "sg_modes --all {sg}",
    "all mode pages by 6": "sg_modes --six --all {sg}",
    "log pages": "sg_logs {sg}",
    "all log pages": "sg_logs --all {sg}",
    "operation codes": "sg_opcodes {sg}",
    "operation codes with timeouts": "sg_opcodes --rctd {sg}",
    "task management functions": "sg_opcodes --tmf {sg}",
    "luns": "sg_luns {sg}",
    "target port groups": "sg_rtpg --decode {sg} && sg_rtpg --decode --extended {sg}",
    "ready": "sg_turs --number=3 {sg}",
    "request sense": "sg_requests {sg}",
    "self test": "sg_senddiag --test {sg}",
    "prevent removal": "sg_prevent --prevent=1 {sg} && sg_prevent --allow {sg}",
    "keys before": "sg_persist --in --read-keys {sg}",
    "capabilities": "sg_persist --in --report-capabilities {sg}",
    "register": "sg_persist --out --register --param-sark=abc123 {sg}",
    "keys": "sg_persist --in --read-keys {sg}",
    "reserve": "sg_persist --out --reserve --param-rk=abc123 --prout-type=3 {sg}",
    "reservation": "sg_persist --in --read-reservation {sg}",
    "full status": "sg_persist --in --read-full-status {sg}",
    "release": "sg_persist --out --release --param-rk=abc123 --prout-type=3 {sg}",
    "unregister": "sg_persist --out --register --param-rk=abc123 {sg}",
}
TAPE_ONLY = {
    "block limits": "sg_read_block_limits {sg}",
    "media serial number": "sg_rmsn {sg}",
    "attributes": "sg_read_attr {sg}",
    "density": "sg_raw --request=8192 {sg} 44 00 00 00 00 00 00 20 00 00",
    "position": "sg_raw --request=20 {sg} 34 00 00 00 00 00 00 00 00 00",
    "long position": "sg_raw --request=32 {sg} 34 06 00 00 00 00 00 00 00 00",
    "extended position": "sg_raw --request=32 {sg} 34 08 00 00 00 00 00 00 20 00",
}
DISK_ONLY = {
    "capacity": "sg_readcap {sg} && sg_readcap --16 {sg}",
    "verify": "sg_verify --lba=0 --count=1024 {sg}",
    "synchronize": "sg_sync {sg}",
    "copy parameters": "sg_copy_results --params {sg}",
    "read": "sg_dd if={sg} of=/dev/null bs=512 count=2048 blk_sgio=1",
}
DEVICES = {"changer": "$CHANGER", "tape": "$TAPE0_SG", "disk": "$DISK_SG"}
EXTRA = {"changer": {}, "tape": TAPE_ONLY, "disk": DISK_ONLY}
# How sg3_utils say that an answer does not add up, or that it was refused.
_COMPLAINTS = re.compile(
    r"malformed|too short|unexpected|illegal request|aborted command|pass.?through",
    re.IGNORECASE,
)


def steps() -> list[Step]:
    unit_attentions = [Step(f"first contact with the {name}", f"sg_turs {sg}; true") for name, sg in DEVICES.items()]
    return unit_attentions + [
        Step(f"{device}: {name}", command.format(sg=generic))
        for device, generic in DEVICES.items()
        for name, command in (ANY_DEVICE | EXTRA[device]).items()
    ]


def test_sg_utilities_are_content(appliance: Appliance) -> None:
    packages.require("sg3-utils")
    appliance.load()
    done = run_in_guest(appliance, steps())
    for name, outcome in done.outcomes.items():
        complaint = _COMPLAINTS.search(outcome.output)
        assert not complaint or "operation codes" in name or "first contact" in name, f"{name}\n{outcome.output}"
    for device, kind in (("changer", "medium changer"), ("tape", "tape"), ("disk", "disk")):
        assert f"Peripheral device type: {kind}" in done[f"{device}: inquiry"]
        assert "there are NO registered reservation keys" in done[f"{device}: keys before"]
        assert "0xabc123" in done[f"{device}: keys"]
        assert "Exclusive Access" in done[f"{device}: reservation"]
        for answer in ("Key=0xabc123", "Reservation holder", "Exclusive Access", "iSCSI", INITIATOR_NAME):
            assert answer in done[f"{device}: full status"], answer
        for answer in ("Persist Through Power Loss Capable(PTPL_C): 1", "Exclusive Access, all registrants: 1"):
            assert answer in done[f"{device}: capabilities"], answer
        assert done[f"{device}: target port groups"].count("active/optimized") == 2  # without and with the header
    assert "Write(6)" in done["tape: operation codes"]
    assert "Extended copy" in done["disk: operation codes"]
    assert "Move medium" in done["changer: operation codes"]
