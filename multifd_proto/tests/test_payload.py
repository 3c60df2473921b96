"""The methods: what names them, how long their payloads are, and round trips through each."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multifd_proto.tests.payloads import METHOD, decode, methods, packets, page_sizes
from multifd_proto.wire.payload import METHOD_MASK, METHODS, PayloadMethod, method_of
from multifd_proto.wire.schema import PAGE_SIZES

by_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def test_each_flag_names_its_method() -> None:
    flags = {m.name: m.flag for m in METHODS}
    assert flags == {"none": 0, "zlib": 2, "zstd": 4, "qpl": 8, "uadk": 0x10, "qatzip": 0x20}


def test_releases_of_the_methods() -> None:
    since = [(m.name, m.since) for m in METHODS if m.since != "5.0"]
    assert since == [("none", "4.0"), ("qpl", "9.1"), ("uadk", "9.1"), ("qatzip", "9.2")]


@given(st.integers(0, 2**32 - 1))
def test_bits_outside_the_mask_name_nothing(flags: int) -> None:
    assert method_of(flags) is method_of(flags & METHOD_MASK)


def test_two_methods_together_are_none() -> None:
    named = {flags for flags in range(0, METHOD_MASK + 2, 2) if method_of(flags)}
    assert named == {m.flag for m in METHODS}
    assert method_of(0x6) is None


@by_method
def test_no_payload_follows_a_packet_without_normal_pages(method: PayloadMethod) -> None:
    assert method.payload_size(0, 4096, 4096) == 0


@by_method
def test_size_of_a_payload(method: PayloadMethod) -> None:
    assert method.payload_size(3, 77, 4096) == (77 if method.flag else 3 * 4096)


def test_limits() -> None:
    limits = {m.name: m.limit for m in METHODS}
    most, tables = 512 * 1024, 4 * 512
    assert limits == {
        "none": None,
        "zlib": 2 * most,
        "zstd": 2 * most,
        "qpl": most + tables,
        "uadk": most + tables,
        "qatzip": 2 * most,
    }


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("zlib", 10, "compression level of zlib is 10, must be 0 to 9"),
        ("zstd", 21, "compression level of zstd is 21, must be 0 to 20"),
        ("zstd", -1, "compression level of zstd is -1, must be 0 to 20"),
        ("qatzip", 0, "compression level of qatzip is 0, must be 1 to 9"),
        ("none", 1, "none has no compression levels, level is 1"),
        ("qpl", 1, "qpl has no compression levels, level is 1"),
    ],
)
def test_levels_that_a_method_does_not_have(name: str, level: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        METHOD[name].encoder(level)


@settings(max_examples=60, deadline=None)  # byte by byte takes long on a busy machine
@given(st.data(), methods, page_sizes, st.sampled_from([None, 1, 7, 1460]))
def test_round_trip(
    data: st.DataObject, method: PayloadMethod, page_size: int, step: int | None
) -> None:
    encoder, decoder = method.encoder(), method.decoder()
    for pages in data.draw(packets(page_size)):
        payload = encoder.encode(pages)
        assert method.payload_size(len(pages), len(payload), page_size) == len(payload)
        decoded = decode(decoder, payload, len(pages), page_size, step=step)
        assert decoded == (b"".join(pages), None)


@by_method
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_full_packet_fits_its_limit(method: PayloadMethod, page_size: int) -> None:
    pages = [bytes([n & 0xFF]) * page_size for n in range(512 * 1024 // page_size)]
    payload = method.encoder().encode(pages)
    assert len(payload) <= (method.limit or 512 * 1024)
    assert decode(method.decoder(), payload, len(pages), page_size) == (b"".join(pages), None)


@pytest.mark.parametrize(
    ("method", "level"), [(m, level) for m in METHODS for level in m.levels or ()]
)
def test_every_level_decodes(method: PayloadMethod, level: int) -> None:
    pages = [bytes(1024), bytes(range(256)) * 4]
    payload = method.encoder(level).encode(pages)
    assert decode(method.decoder(), payload, 2) == (b"".join(pages), None)
