"""The house keeps its own rules: who imports whom, what the wheel holds, what the README shows."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from multifd_proto.machine.check import RULES
from multifd_proto.wire.quirks import QUIRKS
from multifd_proto.wire.requirements import load

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.parent
MODULES = [path for path in PACKAGE.rglob("*.py") if "tests" not in path.parts]
SUITE = [
    path
    for folder in ("conformance", "fuzz")
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.startswith("test_")
]
LAYERS = {
    "wire": {"wire"},
    "machine": {"machine", "wire"},
    "capture": {"capture", "machine", "wire"},
    "peers": {"peers", "machine", "wire"},
    "views": {"views", "capture", "machine", "wire"},
    "conformance": {"conformance", "peers", "capture", "machine", "wire"},
    "fuzz": {"fuzz", "conformance", "views", "peers", "capture", "machine", "wire"},
    "cli": {"cli", "fuzz", "conformance", "views", "peers", "capture", "machine", "wire"},
}
"""Layer -> the layers that it may import."""
HOMES = {
    "construct": ("wire",),
    "scapy": ("views",),
    "hypothesis": ("fuzz",),
    "pytest": ("conformance",),
    "cryptography": ("capture",),
    "plotly": ("views",),
    "textual": ("views",),
}
"""Library -> the layers that may import it."""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES + SUITE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    layer = path.relative_to(PACKAGE if path in MODULES else ROOT).parts[0]
    for module in imports(path):
        top, *rest = module.split(".")
        if top in HOMES:
            assert layer in HOMES[top], f"{module} has its home in {HOMES[top]}"
        if top == "multifd_proto" and rest and layer in LAYERS:
            assert rest[0] in LAYERS[layer] | {"errors", "__version__"}, module
        assert rest[:1] != ["spec"]


def test_requirements_and_rules_agree():
    wire = {r.id for r in load().values() if r.observable == "wire"}
    assert wire == set(RULES)
    for requirement in load().values():
        assert (requirement.observable == "none") == bool(requirement.observable_reason)
    for quirk in QUIRKS:
        assert set(quirk.requirements) <= wire


def test_modules_are_small():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in MODULES + SUITE
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert long == {}


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not in a checkout")
def test_the_wheel_holds_the_specification(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "multifd_proto/spec/03-init.md",
        "multifd_proto/spec/multifd.lua",
        "multifd_proto/spec/captures/q10_0-none.pcap.zst",
        "multifd_proto/conformance/matrix.py",
        "multifd_proto/fuzz/mutate.py",
        "multifd_proto/peers/templates/10.0.json",
        "multifd_proto/py.typed",
    ):
        assert name in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"multifd_proto"}


# ---- the README --------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = re.findall(r"^\$ (multifd .+)\n((?:(?!```|\$ ).*\n)*)", README, re.MULTILINE)


def test_the_first_two_blocks_are_one_line_each():
    assert [len(block.splitlines()) for block in BLOCKS[:2]] == [1, 1]
    assert "multifd check spec/captures/" in BLOCKS[0]
    assert "pytest" in BLOCKS[1]


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[c for c, _ in EXAMPLES])
def test_examples_print_what_the_readme_shows(command, shown, tmp_path):
    (tmp_path / "spec").symlink_to(ROOT / "spec")
    code = "from multifd_proto.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(command)[1:]],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    for line in shown.splitlines():
        # ... stands for anything
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        assert re.search(f"^{pattern}$", done.stdout, re.MULTILINE), line


PEERS = re.findall(r"^\w+\$ (multifd .+)\n((?:(?!```|\w*\$ ).*\n)*)", README, re.MULTILINE)


def test_examples_of_two_peers_print_what_the_readme_shows(tmp_path):
    (tmp_path / "image").write_bytes(b"".join(bytes([n % 7]) * 4096 for n in range(512)))
    code = "from multifd_proto.cli import main; main()"
    running = []
    assert [words.split()[1] for words, _ in PEERS] == ["receive", "send"]
    for command, _ in PEERS:
        words = shlex.split(command)[1:]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *words],
                cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        while not (tmp_path / "migrate.sock").exists():
            assert running[0].poll() is None
    for process, (_, shown) in zip(running, PEERS, strict=True):
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        for line in shown.splitlines():
            pattern = ".*".join(re.escape(part) for part in line.split("..."))
            assert re.search(f"^{pattern}$", said, re.MULTILINE), line
    assert (tmp_path / "guest" / "ram0.ram").read_bytes() == (tmp_path / "image").read_bytes()


def test_the_readmes_python_runs(tmp_path):
    (block,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    receive, send = block.split("with RamImages")
    image = tmp_path / "image"
    image.write_bytes(bytes(range(256)) * 4096)
    first = threading.Event()
    names: dict[str, object] = {"image": image}

    def say(address):
        names["address"] = address
        first.set()

    def be_sent_to():
        names["memory"] = None
        exec(receive + "    names['memory'] = bytes(memory)\n", {"print": say, "names": names})

    destination = threading.Thread(target=be_sent_to)
    destination.start()
    assert first.wait(30)
    imports = receive[: receive.index("parameters =")]
    exec(imports + "with RamImages" + send, names)
    destination.join(30)
    assert names["memory"] == image.read_bytes()


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
