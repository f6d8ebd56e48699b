"""Mode pages (SPC-5 7.5). A page declares its fields once, with default and changeable; MODE SENSE's current,
changeable, default and saved values and MODE SELECT's checks derive from that. Offsets count from the page's first
byte."""

from __future__ import annotations

from typing import Any, ClassVar

from scsi_targets.t10.fields import Bits, Structure


class ModeParameterHeader6(Structure, length=4):
    """Mode parameter header(6) (SPC-5 table 442)."""

    mode_data_length = Bits(0, 7, 8)
    medium_type = Bits(1, 7, 8)
    device_specific = Bits(2, 7, 8)
    block_descriptor_length = Bits(3, 7, 8)


class ModeParameterHeader10(Structure, length=8):
    """Mode parameter header(10) (SPC-5 table 443)."""

    mode_data_length = Bits(0, 7, 16)
    medium_type = Bits(2, 7, 8)
    device_specific = Bits(3, 7, 8)
    long_lba = Bits(4, 0, 1)
    block_descriptor_length = Bits(6, 7, 16)


class ModePage(Structure):
    """A mode page. `page=`, `length=` (whole page, header included) and, for the long format, `subpage=` come with the
    class statement. `savable` is the PS bit. MODE SELECT may send a page that ends in a list of descriptors shorter,
    down to `shortest` bytes; what is missing is zero then. `per_nexus`: each I_T nexus has current values of its own
    (mode page policy, SPC-5 7.8.13), which end with it; else they are shared."""

    page: ClassVar[int]
    shortest: ClassVar[int]
    subpage: ClassVar[int] = 0
    savable: ClassVar[bool] = True
    per_nexus: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        page: int | None = None,
        subpage: int = 0,
        length: int | None = None,
        shortest: int | None = None,
        savable: bool | None = None,
        per_nexus: bool | None = None,
        **kw: Any,
    ) -> None:
        super().__init_subclass__(length=length, **kw)
        cls.shortest = shortest if shortest is not None else cls.length
        if savable is not None:
            cls.savable = savable
        if per_nexus is not None:
            cls.per_nexus = per_nexus
        if page is None:
            return
        cls.page, cls.subpage = page, subpage
        if subpage:
            head = bytes([page | 0x40, subpage]) + (cls.length - 4).to_bytes(2, "big")
        else:
            head = bytes([page, cls.length - 2])
        cls.constant = int.from_bytes(head.ljust(cls.length, b"\0"), "big")
        if cls.constant & cls.field_mask:
            raise TypeError(f"{cls.__name__}: a field lies on the page header")

    @classmethod
    def header_length(cls) -> int:
        """2 bytes (page_0 format) or 4 (sub_page format)."""
        return 4 if cls.subpage else 2

    @classmethod
    def changeable_mask(cls) -> bytes:
        """All ones in the fields that MODE SELECT may change (PC = 01b), zero elsewhere behind the header."""
        ones = {n: (1 << f.width) - 1 for n, f in cls.fields.items() if f.changeable}
        number = cls.constant
        for name, value in ones.items():
            field = cls.fields[name]
            number |= value << (cls.length * 8 - field.first_bit - field.width)
        return number.to_bytes(cls.length, "big")


class ControlModePage(ModePage, page=0x0A, length=12):
    """Control mode page (SPC-5 7.5.10)."""

    task_set_type = Bits(2, 7, 3)
    tmf_only = Bits(2, 4, 1)
    descriptor_sense = Bits(2, 2, 1, changeable=True)
    global_logging_target_save_disable = Bits(2, 1, 1)
    report_log_exception_condition = Bits(2, 0, 1)
    queue_algorithm_modifier = Bits(3, 7, 4, default=1)
    no_unit_attention_on_release = Bits(3, 3, 1)
    queue_error_management = Bits(3, 2, 2)
    unit_attention_interlocks_control = Bits(4, 5, 2)
    software_write_protect = Bits(4, 3, 1)
    autoload_mode = Bits(5, 2, 3)
    busy_timeout_period = Bits(8, 7, 16)
    extended_self_test_completion_time = Bits(10, 7, 16)


class DisconnectReconnectModePage(ModePage, page=0x02, length=16):
    """Disconnect-reconnect mode page (SPC-5 7.5.11); iSCSI gives the burst fields no meaning (RFC 7143 2.4.3.2)."""

    buffer_full_ratio = Bits(2, 7, 8)
    buffer_empty_ratio = Bits(3, 7, 8)
    maximum_burst_size = Bits(10, 7, 16)
    first_burst_size = Bits(14, 7, 16)


class InformationalExceptionsModePage(ModePage, page=0x1C, length=12):
    """Informational exceptions control mode page (SPC-5 7.5.14)."""

    performance = Bits(2, 7, 1)
    enable_background_function = Bits(2, 5, 1)
    enable_warning = Bits(2, 4, 1)
    disable_exception_control = Bits(
        2, 3, 1, default=1
    )  # there is no prediction of failures to report: TapeAlert tells
    test = Bits(2, 2, 1)
    log_errors = Bits(2, 0, 1)
    method_of_reporting = Bits(3, 3, 4)
    interval_timer = Bits(4, 7, 32)
    report_count = Bits(8, 7, 32)
