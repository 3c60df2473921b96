import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from multifd_proto.cli.wireshark import command
from multifd_proto.views.wireshark import dissector


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without tshark."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(command, arguments)


def a_tshark(home, says):
    program = home / "bin/tshark"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(stat.S_IRWXU)


def test_what_is_installed_is_the_dissector_of_the_specification(home):
    result = invoke("install")
    target = home / ".local/lib/wireshark/plugins/multifd.lua"
    assert result.exit_code == 0
    assert result.output.startswith(f"installed: {target}\n\nIt is loaded by the next start")
    assert target.read_text() == dissector() == invoke("print").output
    assert invoke("path").output == f"{target}\n"


def test_tshark_is_asked_for_its_folder(home):
    a_tshark(home, f"echo 'Personal Lua Plugins:\t{home}/elsewhere'")
    assert invoke("install").exit_code == 0
    assert (home / "elsewhere/multifd.lua").exists()


@pytest.mark.parametrize("says", ["exit 1", "echo 'Temp: /tmp'"])
def test_a_tshark_that_does_not_say_leaves_the_usual_folder(home, says):
    a_tshark(home, says)
    assert Path(invoke("path").output.strip()).parent == home / ".local/lib/wireshark/plugins"


def test_a_folder_of_choice_is_used(home):
    assert invoke("install", "--into", str(home / "a/b")).exit_code == 0
    assert (home / "a/b/multifd.lua").exists()


def test_a_folder_that_cannot_be_made_is_one_clear_line(home):
    (home / "file").touch()
    result = invoke("install", "--into", str(home / "file/b"))
    assert result.exit_code == 1
    assert result.output == f"Error: {home}/file/b/multifd.lua: Not a directory\n"
