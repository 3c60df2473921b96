import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from multifd_proto.cli.render import command
from multifd_proto.errors import CatalogueError
from multifd_proto.machine.transitions import TRANSITIONS
from multifd_proto.views import worked_example
from multifd_proto.views.render import END, RENDERERS, render, render_all
from multifd_proto.views.wireshark import SCRIPT, dissector
from multifd_proto.wire.main_records import COMMANDS
from multifd_proto.wire.requirements import load
from multifd_proto.wire.schema import MultiFDInit, MultiFDPacket

SPEC = Path(__file__).parents[2] / "spec"


def chapter(name: str, content: str = "") -> str:
    return f"# Chapter\n\n<!-- render: {name} -->\n{content}{END}\n\nProse.\n"


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return {name: make() for name, make in RENDERERS.items()}


def test_the_committed_chapters_are_up_to_date() -> None:
    stale = [path.name for path, text in render_all(SPEC).items() if path.read_text() != text]
    assert stale == []


def test_every_renderer_is_used_by_a_chapter() -> None:
    text = "".join(path.read_text() for path in SPEC.glob("*.md"))
    assert [name for name in RENDERERS if f"<!-- render: {name} -->" not in text] == []


@pytest.mark.parametrize("name", RENDERERS)
def test_what_is_rendered_is_rendered_the_same_again(name: str) -> None:
    once = render("x.md", chapter(name, "old text\n"))
    assert "old text" not in once
    assert once.startswith("# Chapter\n")
    assert once.endswith(f"{END}\n\nProse.\n")
    assert render("x.md", once) == once


def test_text_without_markers_is_left_as_it_is() -> None:
    text = "# 1\n\nIn a line, `<!-- render: flags -->` marks nothing.\n"
    assert render("x.md", text) == text


def test_an_unknown_name_is_an_error_with_its_place() -> None:
    with pytest.raises(CatalogueError) as error:
        render("x.md", chapter("flag"))
    names = ", ".join(RENDERERS)
    assert str(error.value) == f"x.md:3: render is 'flag', must be one of: {names}"


@pytest.mark.parametrize("rest", ["", "<!-- render: methods -->\n" + END])
def test_a_marker_without_end_is_an_error_with_its_place(rest: str) -> None:
    with pytest.raises(CatalogueError) as error:
        render("x.md", f"# 1\n<!-- render: flags -->\ntext\n{rest}")
    assert str(error.value) == f"x.md:2: render 'flags' has no {END!r} after it"


def test_an_end_without_marker_is_an_error_with_its_place() -> None:
    with pytest.raises(CatalogueError, match=r"^x\.md:2: end render without a render before it$"):
        render("x.md", f"# 1\n{END}\n")


def test_every_line_of_a_table_has_as_many_cells(rendered: dict[str, str]) -> None:
    for text in rendered.values():
        for one in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in one.splitlines()}
            assert len(cells) == 1


def test_layouts_have_a_line_a_field(rendered: dict[str, str]) -> None:
    assert len(rendered["layout MultiFDInit_t"].splitlines()) == len(list(MultiFDInit.rows())) + 4
    assert "| 32 | 4 | `zero_pages` | u32be |" in rendered["layout MultiFDPacket_t"]
    assert "| 320 | 8 x page_count | `offset` |" in rendered["layout MultiFDPacket_t"]
    assert "zero_pages" not in rendered["layout MultiFDPacket_t before 9.0"]
    assert "has 276 bytes in all" in rendered["layout MultiFDPacketDeviceState_t"]


def test_a_page_of_4_kib_makes_a_head_of_1344_bytes(rendered: dict[str, str]) -> None:
    assert "| 4 KiB | 128 | 1344 | 525632 |" in rendered["page-sizes"]


def test_the_diagram_has_an_arrow_for_every_transition(rendered: dict[str, str]) -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+): (\w+)$", rendered["states"], re.MULTILINE)
    assert arrows == [
        (state.name, to.name, event.__name__)
        for state, after in TRANSITIONS.items()
        for event, to in after.items()
    ]


def test_the_tables_of_commands_and_requirements_are_complete(rendered: dict[str, str]) -> None:
    assert all(f"| {n} | `{name}` |" in rendered["commands"] for n, name in COMMANDS.items())
    links = re.findall(r"^\| \[(\S+)\]\((\S+)\)", rendered["requirements"], re.MULTILINE)
    assert links == [(r.id, r.anchor) for r in load().values()]


def test_every_link_between_chapters_leads_somewhere() -> None:
    for path in SPEC.glob("*.md"):
        for file, anchor in re.findall(r"\]\(([\w-]*\.md)?(?:#([\w-]+))?\)", path.read_text()):
            target = SPEC / file if file else path
            assert target.exists(), f"{path.name}: {file}"
            if anchor:
                assert anchor in anchors(target.read_text()), f"{path.name}: {file}#{anchor}"


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_worked_example_spells_the_bytes_of_the_capture(rendered: dict[str, str]) -> None:
    main, channel = worked_example._streams()
    init, sync, pages, stream = map(unspell, rendered["worked-example"].split("### ")[1:])
    assert init == channel[: MultiFDInit.size()]
    assert sync == channel[64 : 64 + MultiFDPacket.size(128)]
    assert pages[:64] in channel
    assert stream == main[: len(stream)]
    assert len(stream) >= 200


def unspell(section: str) -> bytes:
    out = b""
    for text in re.findall(r"^\| \d+ \| `([^`]*)` \|", section, re.MULTILINE):
        for byte, times in re.findall(r"([0-9a-f]{2})(?: x (\d+))?", text):
            out += bytes.fromhex(byte) * int(times or 1)
    return out


@pytest.mark.parametrize(
    ("content", "spelled"),
    [
        (b"", "``"),
        (b"\x01\x00\x00", "`01 00 00`"),
        (bytes(7), "`00 00 00 00 00 00 00`"),
        (bytes(8), "`00 x 8`"),
        (b"pc" + bytes(254), "`70 63 00 x 254`"),
        (bytes(range(33)), "`" + bytes(range(32)).hex(" ") + " …`"),
    ],
)
def test_bytes_are_spelled_with_runs_folded(content: bytes, spelled: str) -> None:
    assert worked_example.spell(content) == spelled


def spec_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("multifd_proto.cli.render.files", lambda _package: tmp_path)
    page = tmp_path / "04-packets.md"
    page.write_text(chapter("flags"))
    (tmp_path / "11-zero-copy.md").write_text("# 11\n")
    (tmp_path / SCRIPT).write_text(dissector())
    return page


def test_the_verb_writes_what_is_stale_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = spec_in(tmp_path, monkeypatch)
    first, second = CliRunner().invoke(command), CliRunner().invoke(command)
    assert (first.exit_code, first.output) == (0, "04-packets.md: written\n")
    assert (second.exit_code, second.output) == (0, "")
    assert "| `0x01` | SYNC |" in page.read_text()


def test_the_dissector_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec_in(tmp_path, monkeypatch).parent / SCRIPT).unlink()
    result = CliRunner().invoke(command, ["--check"])
    assert (result.exit_code, result.output) == (1, "04-packets.md: stale\nmultifd.lua: stale\n")
    CliRunner().invoke(command)
    assert (tmp_path / SCRIPT).read_text() == dissector()


def test_check_names_what_is_stale_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = spec_in(tmp_path, monkeypatch)
    before = page.read_text()
    result = CliRunner().invoke(command, ["--check"])
    assert (result.exit_code, result.output) == (1, "04-packets.md: stale\n")
    assert page.read_text() == before
    page.write_text(render(page.name, before))
    result = CliRunner().invoke(command, ["--check"])
    assert (result.exit_code, result.output) == (0, "")
