"""Sizes and addresses, as people write them."""

import pytest

from appliance.settings.units import format_size, parse_address, parse_size, parse_size_of_at_least


@pytest.mark.parametrize(
    ("text", "length_bytes"),
    [
        ("0", 0),
        (4096, 4096),
        ("256 MiB", 256 << 20),
        ("256mib", 256 << 20),
        ("2.5 TB", 2_500_000_000_000),
        ("1 KB", 1000),
        ("10G", 10_000_000_000),
        ("1.5G", 1_500_000_000),
        ("10Gi", 10 << 30),
        (".5 MiB", 512 << 10),
        ("1 EiB", 1 << 60),
        ("2 pb", 2 * 10**15),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(text: str | int, length_bytes: int) -> None:
    assert parse_size(text) == length_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MiB",
        "12 parsecs",
        "-1",
        "1 MiB extra",
        "1..5 MB",
        "0x10",
        "1,5 GB",
        "8 Gbit",
        "5 5",
        "٣ GB",
        "1e9",
        "1.5.2 G",
        "i",
    ],
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_sizes_that_are_too_large_or_too_small_say_so() -> None:
    with pytest.raises(ValueError, match="more than any file can hold"):
        parse_size("8 EiB")
    with pytest.raises(ValueError, match="'5' is 5 B; the least is 1 MiB"):
        parse_size_of_at_least("5", 1 << 20)
    assert parse_size_of_at_least("1 MiB", 1 << 20) == 1 << 20


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
        (1 << 60, "1 EiB"),
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
