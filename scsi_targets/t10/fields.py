"""Structures declared field by field, as the standards' tables draw them.

A field is declared once, with its position in the table, and gives decode (attribute access), encode, the usage mask of
REPORT SUPPORTED OPERATION CODES and a name. Fields that overlap are refused when the class is made.

    class Write6(Command, opcode=0x0A, length=6):
        fixed = Bits(1, 0, 1)               # byte, most significant bit, width in bits
        transfer_length = Bits(2, 7, 24)    # runs on into the following bytes, big endian
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self, overload


class TooShort(ValueError):
    """The bytes end before the structure does."""


class Field:
    """What the field kinds share: a name, and the bits the field takes in its structure."""

    name: str = ""
    first_bit: int  # counted from the most significant bit of byte 0
    width: int  # bits

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def byte(self) -> int:
        """The byte that holds the field's most significant bit (a sense key specific field pointer points here)."""
        return self.first_bit // 8

    @property
    def msb(self) -> int:
        """Number of the field's most significant bit in its byte, 7 to 0 (the bit pointer of sense data)."""
        return 7 - self.first_bit % 8

    def to_int(self, value: Any) -> int:
        """The value as an unsigned integer of the field's width; ValueError when it does not fit."""
        raise NotImplementedError

    default: Any = 0
    changeable: bool = False


class Bits(Field):
    """An unsigned big-endian integer of `width` bits whose most significant bit is bit `msb` of byte `byte`.

    `default` and `changeable` matter to mode pages: the default value, and whether MODE SELECT may change it.
    """

    def __init__(self, byte: int, msb: int, width: int, *, default: int = 0, changeable: bool = False) -> None:
        self.first_bit = byte * 8 + 7 - msb
        self.width = width
        self.default = default
        self.changeable = changeable
        end = self.first_bit + width
        self._start = byte
        self._stop = (end + 7) // 8
        self._in_one_byte = self._stop == byte + 1
        self._shift = self._stop * 8 - end
        self._mask = (1 << width) - 1

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Structure, owner: type) -> int: ...
    def __get__(self, instance: Structure | None, owner: type) -> Self | int:
        if instance is None:
            return self
        if self._in_one_byte:
            return instance.raw[self._start] >> self._shift & self._mask
        return int.from_bytes(instance.raw[self._start : self._stop]) >> self._shift & self._mask

    def to_int(self, value: Any) -> int:
        number = int(value)
        if not 0 <= number <= self._mask:
            raise ValueError(f"{self.name} = {number} does not fit in {self.width} bits")
        return number


class Octets(Field):
    """A run of `length` bytes from byte `byte`, decoded as bytes."""

    def __init__(self, byte: int, length: int, *, default: bytes = b"", changeable: bool = False) -> None:
        self.first_bit = byte * 8
        self.width = length * 8
        self.length = length
        self.default = default
        self.changeable = changeable

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Structure, owner: type) -> bytes: ...
    def __get__(self, instance: Structure | None, owner: type) -> Self | bytes:
        if instance is None:
            return self
        return instance.raw[self.byte : self.byte + self.length]

    def to_int(self, value: Any) -> int:
        data = bytes(value)
        if len(data) > self.length:
            raise ValueError(f"{self.name}: {len(data)} bytes do not fit in {self.length}")
        return int.from_bytes(data.ljust(self.length, b"\0"), "big")


class Ascii(Octets):
    """Left-aligned ASCII, padded with spaces (SPC-5 4.3.1); `bytes` when read, `str` or `bytes` when encoded."""

    def to_int(self, value: Any) -> int:
        data = value.encode("ascii") if isinstance(value, str) else bytes(value)
        if len(data) > self.length:
            raise ValueError(f"{self.name}: {data!r} is longer than {self.length} characters")
        return int.from_bytes(data.ljust(self.length), "big")


class Structure:
    """A fixed-length structure over `raw`. Subclasses give `length=` (bytes) and declare fields."""

    __slots__ = ("raw",)
    length: ClassVar[int] = 0
    fields: ClassVar[dict[str, Field]] = {}
    constant: ClassVar[int] = 0  # bits every encoding carries (an operation code, a page code), as a big-endian integer
    field_mask: ClassVar[int] = 0
    _places: ClassVar[dict[str, tuple[Callable[[Any], int], int, int]]] = {}  # how to encode each: value, shift, bits
    _defaults: ClassVar[int] = 0  # of all fields, as constant
    raw: bytes

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __init_subclass__(cls, *, length: int | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if length is not None:
            cls.length = length
        cls.fields = dict(cls.fields) | {k: v for k, v in vars(cls).items() if isinstance(v, Field)}
        mask, cls._defaults, cls._places = 0, 0, {}
        for name, field in cls.fields.items():
            shift = cls.length * 8 - field.first_bit - field.width
            if shift < 0:
                raise TypeError(f"{cls.__name__}.{name} ends behind byte {cls.length - 1}")
            bits = ((1 << field.width) - 1) << shift
            if mask & bits:
                raise TypeError(f"{cls.__name__}.{name} overlaps another field")
            mask |= bits
            cls._places[name] = (field.to_int, shift, bits)
            cls._defaults |= field.to_int(field.default) << shift
        cls.field_mask = mask

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Self:
        """The structure at the head of `data`; what follows is left alone. Raises TooShort."""
        if len(data) < cls.length:
            raise TooShort(f"{cls.__name__} needs {cls.length} bytes, there are {len(data)}")
        return cls(bytes(data[: cls.length]))

    @classmethod
    def encode(cls, **values: Any) -> bytes:
        """`length` bytes; a field not named takes its default. Raises ValueError for what does not fit, TypeError for a
        name that is no field."""
        number, places = cls._defaults, cls._places
        try:
            for name, value in values.items():
                to_int, shift, bits = places[name]
                number = number & ~bits | to_int(value) << shift
        except KeyError:
            unknown = ", ".join(sorted(values.keys() - cls.fields.keys()))
            raise TypeError(f"{cls.__name__} has no field {unknown}") from None
        number |= cls.constant
        return number.to_bytes(cls.length, "big")

    @classmethod
    def encoder(cls, *varying: str, **fixed: Any) -> Callable[..., bytes]:
        """encode() for many that differ in a few fields, which are integers: a function of their values, in that order.
        Raises as encode() does, and so does the function."""
        places = [(cls.fields[name], *cls._places[name][1:]) for name in varying]
        base = int.from_bytes(cls.encode(**fixed), "big")
        for _, _, bits in places:
            base &= ~bits
        length = cls.length

        def encode(*values: int) -> bytes:
            number = base
            for value, (field, shift, bits) in zip(values, places, strict=True):
                placed = value << shift
                if placed & ~bits:  # also of a negative value
                    field.to_int(value)
                number |= placed
            return number.to_bytes(length, "big")

        return encode

    def replace(self, **values: Any) -> bytes:
        """The same bytes with the named fields changed."""
        return type(self).encode(**(self.values() | values))

    def values(self) -> dict[str, Any]:
        """Every field's value by name."""
        return {name: getattr(self, name) for name in self.fields}

    @classmethod
    def mask(cls) -> bytes:
        """A one for every bit that belongs to a field."""
        return cls.field_mask.to_bytes(cls.length, "big")

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.values().items())
        return f"{type(self).__name__}({shown})"


def integers(values: Iterable[int], length: int) -> bytes:
    """A list of unsigned integers of `length` bytes each, as parameter data have them. Raises OverflowError for one
    that does not fit."""
    return b"".join(value.to_bytes(length, "big") for value in values)


class Command(Structure):
    """A CDB. `opcode=`, `length=` and, for the multiplexed ones, `service_action=` come with the class statement."""

    opcode: ClassVar[int]
    service_action: ClassVar[int | None] = None
    service_action_position: ClassVar[tuple[int, int, int]] = (1, 4, 5)  # byte, most significant bit, width

    def __init_subclass__(
        cls, *, opcode: int | None = None, service_action: int | None = None, length: int | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(length=length, **kwargs)
        if opcode is None:
            return
        cls.opcode = opcode
        cls.service_action = service_action
        cls.constant = opcode << (cls.length - 1) * 8
        if service_action is not None:
            field = Bits(*cls.service_action_position)
            cls.constant |= service_action << (cls.length * 8 - field.first_bit - field.width)
        if cls.constant & cls.field_mask:
            raise TypeError(f"{cls.__name__}: a field lies on the operation code or service action")

    @classmethod
    def service_action_of(cls, cdb: bytes) -> int:
        """The service action in a CDB of this operation code."""
        byte, msb, width = cls.service_action_position
        stop = byte + (7 - msb + width + 7) // 8
        shift = (stop - byte) * 8 - (7 - msb) - width
        return (int.from_bytes(cdb[byte:stop], "big") >> shift) & (1 << width) - 1

    @classmethod
    def usage_mask(cls) -> bytes:
        """CDB USAGE DATA of REPORT SUPPORTED OPERATION CODES: the operation code and service action as they are, a one
        for every other bit the device server reads (SPC-5 6.32.3)."""
        return (cls.constant | cls.field_mask).to_bytes(cls.length, "big")
