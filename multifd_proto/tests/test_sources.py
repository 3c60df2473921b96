"""What requirements were read in, looked up in small QEMU source trees that are written here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from multifd_proto.cli.render import command
from multifd_proto.errors import CatalogueError
from multifd_proto.views.sources import Finding, Presence, Tree, compare
from multifd_proto.wire.dialect import EVERY, span
from multifd_proto.wire.requirements import Requirement, Source, SourceKind, load, parse_chapter

NAME, FILE, MESSAGE = SourceKind.NAME, SourceKind.FILE, SourceKind.MESSAGE
COMMIT, REMARK = SourceKind.COMMIT, SourceKind.REMARK
RECV = """\
#include "multifd.h"
#define MULTIFD_MAGIC 0x11223344U
static int
recv_later(void);
static bool recv_init(QIOChannel *c,
                      Error **errp)
{
    if (bad) {
        error_setg(errp, "multifd: received packet "
                   "magic %x", magic);
    }
    return recv_elsewhere(c);
}
"""


def requirement(source: str, dialects: str = "all dialects") -> Requirement:
    text = f"#### INIT-1 magic\n*MUST · sender · {dialects} · observable: wire · source {source}*\n"
    return next(parse_chapter("03-init.md", f"{text}\nA sender MUST do it.\n"))


def tree(path: Path, version: str = "10.0.3", **files: str) -> Tree:
    (path / "migration").mkdir(parents=True)
    (path / "VERSION").write_text(f"{version}\n")
    for name, text in files.items():
        target = path / name.replace("__", "/").replace("_dot_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return Tree(path)


def findings(trees: Tree | list[Tree], source: str, dialects: str = "all dialects") -> list[str]:
    trees = [trees] if isinstance(trees, Tree) else trees
    (row,) = compare(trees, [requirement(source, dialects)])
    return [str(finding) for finding in row.findings]


# ---- the grammar of a block --------------------------------------------------------------------


def test_a_list_of_sources_is_taken_apart():
    text = (
        '`recv_init`, `multifd.h` (5.0+), "packet magic %x, expected" (4.0 to 8.2), 810bf31a1b,\n'
        "work item 3737"
    )
    parsed = requirement(text)
    assert parsed.source == " ".join(text.split())
    assert parsed.sources == (
        Source(NAME, "recv_init"),
        Source(FILE, "multifd.h", span("5.0")),
        Source(MESSAGE, "packet magic %x, expected", span("4.0", "8.2")),
        Source(COMMIT, "810bf31a1b"),
        Source(REMARK, "work item 3737"),
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('`a`, "b', 'source is \'"b\', must be `NAME`, "MESSAGE" or a commit'),
        ("`a` `b`", "source is '`a` `b`', must be `NAME`, \"MESSAGE\" or a commit"),
        ("`a` (10+", "source is '`a` (10+', must be `NAME`, \"MESSAGE\" or a commit"),
        ("`a` (3.0+)", "'3.0' is no QEMU release from 4.0 on, nor 'seed'"),
    ],
)
def test_a_malformed_source_is_an_error_with_its_place(source, message):
    with pytest.raises(CatalogueError) as error:
        requirement(source)
    assert str(error.value) == f"03-init.md:1: INIT-1: {message}"


def test_every_requirement_has_a_source_in_the_newest_dialect_it_binds():
    for one in load().values():
        newest = max(one.dialects, key=lambda dialect: dialect.index)
        assert any(newest in source.dialects for source in one.sources), one.id


def test_messages_are_those_of_receivers():
    told = {r.id for r in load().values() for s in r.sources if s.kind is MESSAGE}
    assert {load()[one].role.value for one in told} == {"receiver"}
    assert {"INIT-9", "INIT-12", "PKT-24", "PAY-15", "MAPR-5"} <= told


# ---- one tree ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Tree:
    return tree(
        tmp_path / "qemu",
        migration__multifd_dot_c=RECV,
        migration__multifd_dot_h="",
        hw__vfio__load_dot_c="int recv_elsewhere(void *c)\n{\n}\n",
        tests__unit_dot_c="int only_tested(void)\n{\n}\n",
        build__made_dot_h="#define ONLY_BUILT 1\n",
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("`recv_init`", "migration/multifd.c"),
        ("`recv_elsewhere`", "hw/vfio/load.c"),
        ("`MULTIFD_MAGIC`", "migration/multifd.c"),
        ("`recv_later`", "mentioned in migration/multifd.c"),
        ("`recv`", "missing"),
        ("`only_tested`", "missing"),
        ("`ONLY_BUILT`", "missing"),
        ("`multifd.h`", "migration/multifd.h"),
        ("`fd.h`", "missing"),
        ('"multifd: received packet magic %x"', "migration/multifd.c"),
        ('"received packet version"', "missing"),
        ("810bf31a1b", "not looked for"),
        ("work item 3737", "not looked for"),
    ],
)
def test_a_source_is_found_where_it_is_defined(small, source, found):
    assert findings(small, source) == [found]


@pytest.mark.parametrize(
    ("source", "dialects", "found"),
    [
        ("`gone` (4.0 to 8.2)", "all dialects", "-"),
        ("`gone` (10.0+)", "all dialects", "missing"),
        ("`gone`", "10.1+", "-"),
        ("`recv_later`", "10.1+", "-"),
        ("`recv_init`", "10.1+", "migration/multifd.c"),
    ],
)
def test_what_is_not_of_a_release_is_not_missed_in_it(small, source, dialects, found):
    assert findings(small, source, dialects) == [found]


@pytest.mark.parametrize(
    ("version", "found"),
    [("10.2.3", "-"), ("10.2.50", "missing"), ("10.2.93", "missing"), ("11.0.0", "missing")],
)
def test_a_tree_in_development_is_of_the_next_release(tmp_path, version, found):
    assert findings(tree(tmp_path / "qemu", version), "`gone` (11.0+)") == [found]


def git(path: Path, *arguments: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(path), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


def test_commits_are_looked_for_in_a_whole_history(small, tmp_path):
    git(small.path, "init")
    git(small.path, "add", ".")
    git(small.path, "commit", "-m", "one")
    git(small.path, "commit", "--allow-empty", "-m", "two")
    first, second = git(small.path, "log", "--reverse", "--format=%h").split()
    assert findings(small, first) == ["found"]
    git(small.path, "reset", "--hard", first)
    assert findings(small, second) == ["missing"]  # known to git, but no ancestor
    assert findings(small, "0123456789") == ["missing"]
    git(tmp_path, "clone", "--depth=1", small.path.as_uri(), "shallow")
    assert findings(Tree(tmp_path / "shallow"), first) == ["not looked for"]


def test_a_folder_within_another_repository_has_no_history(tmp_path):
    git(tmp_path, "init")
    assert findings(tree(tmp_path / "qemu"), "810bf31a1b") == ["not looked for"]


def test_what_is_no_tree_is_refused(tmp_path):
    def refused() -> str:
        with pytest.raises(CatalogueError) as error:
            Tree(tmp_path)
        return str(error.value)

    assert refused() == f"{tmp_path}: has no folder migration, must be a QEMU source tree"
    (tmp_path / "migration").mkdir()
    assert refused() == f"{tmp_path}/VERSION: cannot be read: No such file or directory"
    (tmp_path / "VERSION").write_text("none\n")
    assert refused() == f"{tmp_path}/VERSION: 'none' is no QEMU release from 4.0 on, nor 'seed'"


# ---- several trees, and the verb ---------------------------------------------------------------


def test_drift_is_what_is_missing_or_has_moved(small, tmp_path):
    other = tree(tmp_path / "other", "11.1.0", migration__init_dot_c=RECV)
    catalogue = [
        requirement("`recv_init`, `MULTIFD_MAGIC`, `gone`, 810bf31a1b, `multifd.h` (4.0 to 10.2)")
    ]
    rows = compare([small, other], catalogue)
    here, there = (Finding(Presence.FOUND, f"migration/{f}.c") for f in ("multifd", "init"))
    assert rows[0].findings == (here, there)
    assert [row.drifted for row in rows] == [True, True, True, False, True]
    alone = compare([small], catalogue)
    assert [row.drifted for row in alone] == [False, False, True, False, False]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def complete(path: Path, version: str, without: str = "") -> Path:
    """Write a tree that has all that the catalogue names, but for one source."""
    sources = {s for r in load().values() for s in r.sources if s.name != without}
    names = sorted(s.name for s in sources if s.kind is NAME)
    messages = sorted(s.name for s in sources if s.kind is MESSAGE)
    made = [f"int {name}(void)\n{{\n}}\n" for name in names]
    made += [f'f("{message}");\n' for message in messages]
    files = {f"migration__{s.name.replace('.', '_dot_')}": "" for s in sources if s.kind is FILE}
    return tree(path, version, migration__all_dot_c="".join(made), **files).path


def test_a_tree_that_has_all_is_reported_in_a_line(tmp_path):
    path = complete(tmp_path / "qemu", "11.1.0")
    result = invoke("--sources", path)
    sources = [s for r in load().values() for s in r.sources]
    unsought = sum(s.kind in (COMMIT, REMARK) for s in sources)
    assert result.output == (
        f"QEMU 11.1.0 ({path}): {len(sources) - unsought} found, {unsought} not looked for\n"
    )
    assert result.exit_code == 0


def test_only_the_newest_tree_has_to_have_all(tmp_path):
    gone = "multifd_recv_terminate_threads"
    whole, holed = complete(tmp_path / "a", "11.1.0"), complete(tmp_path / "b", "9.0.4", gone)
    result = invoke("--sources", holed, "--sources", whole)
    assert result.exit_code == 0
    assert result.output.splitlines()[:3] == [
        "| requirement | source | 9.0.4 | 11.1.0 |",
        "| --- | --- | --- | --- |",
        f"| CHAN-12 | `{gone}` | missing | migration/all.c |",
    ]
    (holed / "VERSION").write_text("11.1.1")
    assert invoke("--sources", whole, "--sources", holed).exit_code == 1


def test_json_has_every_source_of_every_tree(tmp_path):
    path = complete(tmp_path / "qemu", "11.1.0", "multifd: received uuid")
    result = invoke("--sources", path, "--json")
    data = json.loads(result.output)
    assert result.exit_code == 1
    assert data["trees"] == [{"path": str(path), "version": "11.1.0"}]
    assert len(data["sources"]) == sum(len(r.sources) for r in load().values())
    assert [row for row in data["sources"] if row["drifted"]] == [
        {
            "requirement": "INIT-11",
            "kind": "message",
            "source": "multifd: received uuid",
            "drifted": True,
            "found": [{"presence": "missing", "file": None}],
        }
    ]


def test_what_does_not_go_together_is_refused(tmp_path):
    for arguments, message in (
        (["--json"], "--json needs --sources"),
        (["--check", "--sources", tmp_path], "--check and --sources exclude each other"),
        (["--sources", tmp_path], f"{tmp_path}: has no folder migration, must be a QEMU source"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert f"Error: {message}" in result.output


def test_the_catalogue_speaks_of_all_dialects():
    assert {s.dialects for s in requirement("`a`").sources} == {EVERY}
