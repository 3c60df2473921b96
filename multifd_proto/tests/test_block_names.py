from __future__ import annotations

from multifd_proto.wire.block_names import file_name


def test_names_of_blocks_make_safe_file_names():
    assert file_name(b"pc.ram") == "pc.ram.ram"
    assert file_name(b"/rom@etc/acpi/tables") == "_rom@etc_acpi_tables.ram"
    assert file_name(b"../../etc/passwd") == "_.._etc_passwd.ram"
    assert file_name(b"...") == file_name(b"") == "_.ram"
    assert file_name(b"\xff\0" * 127) == "_" * 200 + ".ram"


def test_no_two_blocks_have_the_same_file():
    assert file_name(b"a/b", {"a_b.ram"}) == "a_b~2.ram"
    assert file_name(b"a/b", {"a_b.ram", "a_b~2.ram"}) == "a_b~3.ram"
