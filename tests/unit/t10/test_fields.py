"""Declared structures: decode, encode, masks, and what the declaration refuses."""

import importlib
import pkgutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scsi_targets
from scsi_targets.t10 import spc
from scsi_targets.t10.fields import Ascii, Bits, Command, Structure, TooShort


class Example(Structure, length=6):
    flag = Bits(1, 0, 1)
    number = Bits(2, 3, 12)
    text = Ascii(4, 2)


def test_decode_reads_bits_across_bytes():
    example = Example.decode(bytes([0, 1, 0xFA, 0xBC]) + b"xy")
    assert (example.flag, example.number, example.text) == (1, 0xABC, b"xy")


def test_encode_refuses_what_does_not_fit_and_what_is_not_declared():
    with pytest.raises(ValueError, match="number = 4096"):
        Example.encode(number=4096)
    with pytest.raises(TypeError, match="no field nonsense"):
        Example.encode(nonsense=1)


def test_decode_says_how_much_is_missing():
    with pytest.raises(TooShort, match="needs 6 bytes, there are 5"):
        Example.decode(bytes(5))


def test_overlap_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="overlaps"):
        type("Overlapping", (Structure,), {"a": Bits(0, 7, 4), "b": Bits(0, 4, 2)}, length=1)


def test_a_field_on_the_operation_code_is_refused():
    with pytest.raises(TypeError, match="operation code"):
        type("Wrong", (Command,), {"a": Bits(0, 3, 1)}, opcode=0x08, length=6)


def declared_structures() -> list[type[Structure]]:
    """Every structure of the product that can be encoded: commands, pages, descriptors, parameter lists."""
    for module in pkgutil.walk_packages(scsi_targets.__path__, "scsi_targets."):
        importlib.import_module(module.name)
    found, todo = {}, [Structure]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            abstract = issubclass(cls, Command) and not hasattr(cls, "opcode")
            if cls.__module__.startswith("scsi_targets.") and cls.fields and not abstract:
                found[f"{cls.__module__}.{cls.__name__}"] = cls
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("structure", declared_structures(), ids=lambda structure: structure.__name__)
def test_every_declared_structure_round_trips(structure):
    fields = {name: field for name, field in structure.fields.items() if isinstance(field, Bits)}

    @settings(deadline=None, max_examples=20)
    @given(st.fixed_dictionaries({name: st.integers(0, (1 << field.width) - 1) for name, field in fields.items()}))
    def round_trip(values):
        raw = structure.encode(**values)
        assert len(raw) == structure.length
        decoded = structure.decode(raw).values()
        assert {name: decoded[name] for name in values} == values

    round_trip()


def test_usage_mask_carries_opcode_service_action_and_ones():
    assert spc.Inquiry.usage_mask() == bytes([0x12, 0x01, 0xFF, 0xFF, 0xFF, 0x00])
    assert spc.ReportTimestamp.usage_mask()[:2] == bytes([0xA3, 0x0F])


def test_an_encoder_of_some_fields_encodes_as_encode_does():
    encode = Example.encoder("number", "flag", text="a", number=7)
    assert encode(0xABC, 1) == Example.encode(text="a", number=0xABC, flag=1)
    assert encode(0, 0) == Example.encode(text="a")
    for number in (4096, -1):
        with pytest.raises(ValueError, match=f"number = {number}"):
            encode(number, 1)
    with pytest.raises(KeyError):
        Example.encoder("nonsense")
