"""Sizes and addresses, as people write them."""

import pytest

from appliance.settings.units import format_size, parse_address, parse_size


@pytest.mark.parametrize(
    ("text", "length_bytes"),
    [
        ("0", 0),
        (4096, 4096),
        ("256 MiB", 256 << 20),
        ("256mib", 256 << 20),
        ("2.5 TB", 2_500_000_000_000),
        ("1 KB", 1000),
    ],
)
def test_sizes(text: str | int, length_bytes: int) -> None:
    assert parse_size(text) == length_bytes


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "-1", "1 MiB extra", "1..5 MB", "0x10"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 20, "1 MiB"),
        (1_234_567, "1.1 MiB"),
        (256 << 20, "256 MiB"),
        (2_500 * 10**9, "2.5 TB"),
        (18 * 10**12, "18 TB"),
        (5 << 40, "5 TiB"),
        (1536, "1.5 KiB"),
    ],
)
def test_sizes_for_people(length: int, text: str) -> None:
    assert format_size(length) == text


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("0.0.0.0:3260", "0.0.0.0", 3260), ("[::]:3260", "::", 3260), ("nas.example:0", "nas.example", 0)],
)
def test_addresses_read_back(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":3260", "::1:3260", "host:65536", "host:port", "host:-1"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|65535"):
        parse_address(text)
