"""What a kind of device says of the mode parameter header and the block descriptor (SPC-5 7.5.5 to 7.5.8)."""

from __future__ import annotations


class ModeHeader:
    """A device without block descriptors, and with nothing to say in the header. Kinds of devices override it."""

    def medium_type(self) -> int:
        """MEDIUM TYPE of the mode parameter header."""
        return 0

    def device_specific_parameter(self) -> int:
        """DEVICE-SPECIFIC PARAMETER: write protection, cache, buffered mode, as the device's standard defines it."""
        return 0

    def block_descriptor(self, page_control: int) -> bytes:
        """The short (8-byte) block descriptor, or b"" for a device that has none."""
        return b""

    def long_block_descriptor(self, page_control: int) -> bytes:
        """The long (16-byte, LONGLBA) block descriptor, or b"" for a device that has none."""
        return b""

    def check_mode_select(self, header: dict[str, int], descriptor: bytes, offset: int) -> None:
        """Checks the header's device-specific parameter and the block descriptor (b"" when none was sent), changing
        nothing. `offset` is where the descriptor lies in the parameter list. Raises CheckCondition."""

    def apply_mode_select(self, header: dict[str, int], descriptor: bytes) -> bool:
        """Takes over header and descriptor, already checked; True when something changed."""
        return False
