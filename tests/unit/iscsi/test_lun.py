"""The LUN field (SAM-5 4.7)."""

import pytest

from scsi_targets.iscsi.lun import NO_LUN, decode_lun, encode_lun


@pytest.mark.parametrize(
    ("field", "lun"),
    [
        ("0000000000000000", 0),
        ("0001000000000000", 1),
        ("00ff000000000000", 255),
        ("4000000000000000", 0),
        ("4001000000000000", 1),
        ("4100000000000000", 256),
        ("7fff000000000000", 16383),
        ("0100000000000000", 256),  # plainly, as libiscsi writes it
        ("012c000000000000", 300),
        ("412c000000000000", 300),
        ("3fff000000000000", 16383),
        ("8001000000000000", NO_LUN),  # logical unit addressing
        ("c101000000000000", NO_LUN),  # the REPORT LUNS well-known logical unit
        ("0001000100000000", NO_LUN),  # a second level
        ("0000000000000001", NO_LUN),
        ("ffffffffffffffff", NO_LUN),
    ],
)
def test_decode(field: str, lun: int) -> None:
    assert decode_lun(int(field, 16)) == lun


@pytest.mark.parametrize("lun", [0, 1, 255, 256, 16383])
def test_every_form_names_the_same_unit(lun: int) -> None:
    forms = encode_lun(lun)
    assert len(forms) == 2
    assert {decode_lun(form) for form in forms} == {lun}
