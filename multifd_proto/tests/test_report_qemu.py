"""The page of a real migration that was broken: its destination killed in the middle."""

from __future__ import annotations

import re
import time

import pytest
from click.testing import CliRunner

from multifd_proto.cli.report import command
from multifd_proto.peers.lab import configure, guestless
from multifd_proto.peers.tcpdump import capturing
from multifd_proto.tests.test_report import plain

MIB = 1 << 20
RAM = 32 * MIB


@pytest.mark.qemu
def test_a_destination_that_was_killed_is_named(qemu, tcpdump, tmp_path):
    binary, capture = qemu("10.0"), tmp_path / "killed.pcap"
    (tmp_path / "source").write_bytes(b"\xa5" * RAM)
    with (
        guestless(binary, tmp_path / "target", size=RAM, directory=None, incoming=True) as target,
        guestless(binary, tmp_path / "source", size=RAM, directory=None) as source,
    ):
        for end in (source, target):
            configure(end, max_bandwidth=8 * MIB)
        uri = target.listen_uri("tcp:127.0.0.1:0")
        with capturing(int(uri.rpartition(":")[2]), capture):
            source.migrate(uri)
            deadline = time.monotonic() + 20
            while capture.stat().st_size < 4 * MIB and time.monotonic() < deadline:
                time.sleep(0.05)
            target.close()
            assert source.wait_migrated()["status"] == "failed"
    page = tmp_path / "page.html"
    done = CliRunner().invoke(command, [str(capture), "-o", str(page)])
    assert done.output.startswith("killed.pcap: did not complete\n")
    text = plain(page.read_text(encoding="utf-8"))
    assert re.search(r"Did not complete, ended after [\d.]+ m?s: reset by the destination", text)
    assert re.search(
        r"(Both channels were|Channel [01] was) reset by the destination after SYNC 1", text
    )
    assert "destination Read QEMU's log" in text
    assert "The main stream ends without the end of the guest's RAM" in text
