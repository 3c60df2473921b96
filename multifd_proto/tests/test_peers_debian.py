"""Fetching QEMU: the whole way through apt-get and dpkg, from a Debian archive made here."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess

import pytest
from click.testing import CliRunner

from multifd_proto.errors import PeerError
from multifd_proto.peers import debian

needs_dpkg = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="needs apt-get and dpkg"
)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive of one suite, "trixie", whose QEMU says that it is 10.0.99.

    Its dynamic loader is a script, which prints that instead of running anything.
    """
    package = tmp_path / "package"
    loader = package / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text('#!/bin/sh\necho "QEMU emulator version 10.0.99 (made here)"\necho "$@"\n')
    loader.chmod(0o755)
    architecture = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    control = (
        "Package: qemu-system-x86\nVersion: 1:10.0.99\nMaintainer: nobody <nobody@example.com>\n"
        f"Architecture: {architecture}\nDescription: not QEMU\n"
    )
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN/control").write_text(control)
    mirror = tmp_path / "mirror"
    index = mirror / f"dists/trixie/main/binary-{architecture}"
    index.mkdir(parents=True)
    deb = mirror / "qemu.deb"
    subprocess.run(["dpkg-deb", "--build", package, deb], check=True, capture_output=True)
    data = deb.read_bytes()
    packages = f"{control}Filename: qemu.deb\nSize: {len(data)}\nSHA256: {sha256(data)}\n"
    (index / "Packages").write_text(packages)
    listed = f" {sha256(packages.encode())} {len(packages)} main/binary-{architecture}/Packages\n"
    release = (
        f"Codename: trixie\nComponents: main\nArchitectures: {architecture}\nSHA256:\n{listed}"
    )
    (mirror / "dists/trixie/Release").write_text(release)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    sources(monkeypatch, tmp_path, f"URIs: copy:{mirror}")
    return mirror


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def sources(monkeypatch, folder, uris):
    path = folder / "debian.sources"
    path.write_text(f"Types: deb\n{uris}\nSuites: bookworm\nComponents: main\n")
    monkeypatch.setattr(debian, "APT_SOURCES", (path,))


@needs_dpkg
def test_a_release_is_fetched_and_found_and_runs_from_wherever_it_lies(
    archive, tmp_path, monkeypatch
):
    into = tmp_path / "a folder" / "qemu"
    result = CliRunner().invoke(debian.main, ["10.0", "--into", str(into)])
    binary = into / "10.0" / debian.BINARY
    assert result.output == f"QEMU 10.0 is fetched: {binary}\n"
    assert result.exit_code == 0
    assert list(into.iterdir()) == [into / "10.0"]  # nothing of apt is left

    moved = into.rename(tmp_path / "elsewhere") / "10.0"
    (tmp_path / "link").symlink_to(moved / debian.BINARY)
    said = subprocess.check_output([tmp_path / "link", "-S"], text=True).splitlines()
    assert said[0] == "QEMU emulator version 10.0.99 (made here)"
    root = moved / "root"
    lib = "lib/x86_64-linux-gnu"
    assert said[1] == (
        f"--library-path {root}/{lib}:{root}/usr/{lib} {root}/usr/bin/qemu-system-x86_64"
        f" -L {root}/usr/share/qemu -L {root}/usr/share/seabios -S"
    )
    monkeypatch.setenv("MULTIFD_QEMU_DIR", str(moved.parent))
    assert debian.find_qemu("10.0") == moved / debian.BINARY
    assert debian.find_qemu("5.2") is None


@needs_dpkg
def test_a_broken_leftover_is_replaced(archive, tmp_path):
    (tmp_path / "qemu/10.0/root").mkdir(parents=True)
    assert os.access(debian.fetch("10.0", tmp_path / "qemu"), os.X_OK)


@needs_dpkg
def test_another_release_than_the_one_demanded_is_an_error(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(debian.SUITES, "9.9", "trixie")
    with pytest.raises(PeerError) as caught:
        debian.fetch("9.9", tmp_path / "qemu")
    assert str(caught.value) == (
        "Debian trixie has another QEMU than 9.9: 'QEMU emulator version 10.0.99 (made here)'"
    )
    assert list((tmp_path / "qemu").iterdir()) == []


@needs_dpkg
def test_a_suite_that_the_mirror_does_not_have_is_an_error(archive, tmp_path, monkeypatch):
    monkeypatch.delenv("APT_CONFIG")
    result = CliRunner().invoke(debian.main, ["5.2", "--into", str(tmp_path / "qemu")])
    assert result.exit_code == 2
    assert result.output == (
        "error: apt-get (suite bullseye) failed with status 100: E: The repository"
        f" 'copy:{archive} bullseye Release' does not have a Release file.\n"
    )
    assert list((tmp_path / "qemu").iterdir()) == []


@needs_dpkg
def test_a_download_that_fails_is_an_error(archive, tmp_path):
    (archive / "qemu.deb").write_bytes(b"not the package")
    with pytest.raises(PeerError, match=r"^apt-get \(suite trixie\) failed with status 100: E: "):
        debian.fetch("10.0", tmp_path / "qemu")
    assert list((tmp_path / "qemu").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(debian.main, ["10.0", "--into", str(tmp_path / "file" / "qemu")])
    assert result.exit_code == 2
    assert result.output.startswith("error: [Errno 20] Not a directory")


DEB822 = """\
Types: deb deb-src
# a comment: here
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /a.gpg
"""
SECURITY_FIRST = """\
Types: deb
URIs: http://deb.example/security
Suites: bookworm-security
Components: main


Types: deb
URIs: mirror+file:///etc/mirrors.list
Suites: stable
Components: main
"""
ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb-src http://src.example/debian bookworm main
deb http://apt.example tool-bookworm main
deb [arch=amd64 signed-by=/b.gpg] http://ftp.example/debian/ sid main non-free
"""


@pytest.mark.parametrize(
    ("file", "text", "source"),
    [
        ("a.sources", DEB822, {"URIs": "http://deb.example/debian", "Signed-By": "/a.gpg"}),
        ("a.sources", SECURITY_FIRST, {"URIs": "mirror+file:///etc/mirrors.list"}),
        ("a.list", ONE_LINE, {"URIs": "http://ftp.example/debian/", "Signed-By": "/b.gpg"}),
        ("a.list", "deb\thttp://a.example  oldstable  main\n", {"URIs": "http://a.example"}),
        ("a.list", "deb http://ubuntu.example noble main\n", debian._DEFAULT_SOURCE),
    ],
)
def test_mirror_and_keyring_are_those_of_the_machine(file, text, source, tmp_path, monkeypatch):
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(debian, "APT_SOURCES", (tmp_path / "absent.sources", tmp_path / file))
    assert debian._source() == source


def test_only_a_binary_that_can_be_run_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MULTIFD_QEMU_DIR", raising=False)
    binary = tmp_path / ".qemu/7.2" / debian.BINARY
    binary.parent.mkdir(parents=True)
    binary.touch()
    assert debian.find_qemu("7.2") is None
    binary.chmod(0o755)
    assert debian.find_qemu("7.2") == binary
