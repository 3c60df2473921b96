from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest

from multifd_proto.conformance.observation import Exchange
from multifd_proto.conformance.reports import ReportError, read, render
from multifd_proto.conformance.reports.html import dump
from multifd_proto.conformance.reports.table import sections
from multifd_proto.conformance.verdict import Verdict
from multifd_proto.tests.conformance_runs import HOSTILE, Line, lines, peers, row, write
from multifd_proto.wire.requirements import Role

ROOT = Path(__file__).parents[2]
BOUND = "INIT-12/id-equals-channels"


def judged(verdict: Verdict, case: str = BOUND, **changed):
    told = row(Random(1), peers(1)[0], case, Role.RECEIVER)
    plain: Line = {"failure": None, "exchanges": [], "log": "", "reason": [], "deviation": None}
    return told | plain | {"verdict": verdict.value, "scored": True} | changed


def run_of(*rows, peer=0, cases=None, end=True):
    head = lines(4, 1)[0]
    head |= {"peers": [head["peers"][peer]], "cases": cases or [r["case"] for r in rows]}
    return [head, *rows, *([{"type": "end", "seconds": 1.5, "stale": []}] if end else [])]


def load(path, *said):
    return read([write(path / f"run{n}.jsonl", one) for n, one in enumerate(said)])


def columns(runs):
    return [column for section in sections(runs) for column in section.columns]


def rendered(path, runs, suffix):
    render(runs, path / f"report{suffix}")
    return (path / f"report{suffix}").read_text()


# ---- reading -----------------------------------------------------------------------------------


def test_a_run_is_read_back(tmp_path):
    said = lines(2, 30)
    (run,) = load(tmp_path, said)
    assert (run.name, run.suite, run.set, run.roles) == ("run0", "0.1.0", "2026.1", ("receiver",))
    assert [peer.uri for peer in run.peers] == ["qemu:5.2", "qemu:7.2"]
    assert [(r.peer, r.case, r.verdict.value) for r in run.rows] == [
        (r["peer"], r["case"], r["verdict"]) for r in said[1:-1]
    ]
    assert (run.complete, run.seconds) == (True, 12.25)


def test_an_exchange_is_read_back(tmp_path):
    sent = {"time": 0.5, "wire": "1", "kind": "sent", "what": "init", "hex": "1122", "size": 64}
    (run,) = load(tmp_path, run_of(judged(Verdict.FAILED, exchanges=[sent])))
    assert run.rows[0].exchanges == (Exchange(0.5, "1", "sent", "init", b"\x11\x22", 64),)


def test_a_killed_run_keeps_what_it_wrote(tmp_path):
    text = write(tmp_path / "run.jsonl", lines(1, 10)[:6]).read_text()
    (tmp_path / "run.jsonl").write_text(text[:-20])
    (run,) = read([tmp_path / "run.jsonl"])
    assert not run.complete
    assert len(run.rows) == 4
    (column,) = columns([run])
    assert len(column.missing) == 6


def test_a_file_may_hold_several_runs(tmp_path):
    both = load(tmp_path, [*lines(1, 5), *lines(2, 5)])
    assert [len(run.peers) for run in both] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no run"),
        ('{"type":"run"', "holds no run"),
        ("pcap\n", "line 1: 'pcap\\n' is not a JSON object"),
        ("[" * 100000 + "\n", f"line 1: {'[' * 40!r} is not a JSON object"),
        ("[]\n", "line 1: '[]\\n' is not a JSON object"),
        ('{"type":"case"}\n', "line 1: type is 'case', a run begins with 'run'"),
        ('{"type":"run"}\n', "line 1: not a run line: KeyError('role')"),
        ('{"type":"run","role":"sender","peers":[1]}\n', "line 1: not a run line: "),
        ('{"type":"run","role":"sender","peers":[]}\n{"type":"x"}\n', "line 2: type is 'x', known"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(ReportError) as raised:
        read([path])
    assert str(raised.value).startswith(f"{path}: {message}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"none\.jsonl: No such file or directory$"):
        read([tmp_path / "none.jsonl"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("verdict", "fine", "not a case line: ValueError(\"'fine' is not a valid Verdict\")"),
        (
            "peer",
            "tcp:other",
            'not a case line: ValueError("receiver tcp:other is not in the run\'s header")',
        ),
        ("case", "", "not a case line: KeyError('case')"),
        ("reason", 1, "not a case line: TypeError(\"'int' object is not iterable\")"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, name, value, message):
    with pytest.raises(ReportError) as raised:
        load(tmp_path, run_of(judged(Verdict.PASSED) | {name: value}))
    assert str(raised.value) == f"{tmp_path / 'run0.jsonl'}: line 2: {message}"


def test_texts_cannot_steer_a_terminal(tmp_path):
    (run,) = load(tmp_path, run_of(judged(Verdict.FAILED, log=HOSTILE[2] + "\n" + HOSTILE[3])))
    assert run.rows[0].log == (
        "\u241b[31mred\u241b[0m \u2407 and \ufffdback to front\nhalf a pair \ufffd, ünïcödé 漢字 🙂"
    )


# ---- side by side ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ([judged(Verdict.PASSED), judged(Verdict.DEVIATION)], "passes"),
        ([judged(Verdict.PASSED_WEAK)], "passes"),
        ([judged(Verdict.PASSED), judged(Verdict.FAILED)], "fails"),
        ([judged(Verdict.PASSED), judged(Verdict.FAILED, scored=False)], "passes"),
        ([judged(Verdict.INCONCLUSIVE), judged(Verdict.HARNESS_ERROR)], "harness error"),
        ([judged(Verdict.INCONCLUSIVE), judged(Verdict.PASSED)], "inconclusive"),
        ([judged(Verdict.NOT_APPLICABLE), judged(Verdict.REPORTED)], "nothing exercised"),
    ],
)
def test_the_outcome_is_the_worst_that_counts(tmp_path, rows, outcome):
    (column,) = columns(load(tmp_path, run_of(*rows)))
    assert column.outcome == outcome


@pytest.mark.parametrize(
    ("verdict", "demand", "outcome"),
    [
        (Verdict.PASSED_WEAK, {"strict": True}, "fails"),
        (Verdict.PASSED_WEAK, {"strict": False}, "passes"),
        (Verdict.INCONCLUSIVE, {"inconclusive": "skip"}, "passes"),
        (Verdict.INCONCLUSIVE, {"inconclusive": "fail"}, "inconclusive"),
    ],
)
def test_a_run_says_what_it_demands(tmp_path, verdict, demand, outcome):
    said = run_of(judged(verdict))
    said[0] |= demand
    (column,) = columns(load(tmp_path, said))
    assert column.outcome == outcome
    assert len(column.unexpected) == (outcome != "passes" or verdict is Verdict.INCONCLUSIVE)


def test_a_peer_that_cannot_be_used_says_why(tmp_path):
    said = run_of(cases=[BOUND])
    said[0]["peers"] = [{"uri": "qemu:none", "error": "none: no such <file>"}]
    runs = load(tmp_path, said)
    (column,) = columns(runs)
    assert (column.label, column.outcome) == ("qemu:none", "harness error")
    assert r"… 1 not reported, none: no such \<file\> |" in rendered(tmp_path, runs, ".md")
    assert "none: no such &lt;file&gt;" in rendered(tmp_path, runs, ".html")


@pytest.mark.parametrize("cases", [None, [BOUND, "INIT-9/other-magic"]])
def test_a_run_without_its_end_does_not_pass(tmp_path, cases):
    said = run_of(judged(Verdict.PASSED), cases=cases, end=cases is not None)
    (column,) = columns(load(tmp_path, said))
    assert column.outcome == "incomplete"


def test_a_requirement_shows_its_worst_case(tmp_path):
    said = run_of(
        judged(Verdict.PASSED),
        judged(Verdict.NOT_APPLICABLE, "INIT-12/other"),
        judged(Verdict.DEVIATION, "INIT-12/third"),
        judged(Verdict.NOT_APPLICABLE, "INIT-9/magic"),
    )
    (section,) = sections(load(tmp_path, said))
    (chapter,) = section.chapters
    assert chapter.title == "3. The init message"
    assert [(line.id, line.symbols) for line in chapter.lines] == [
        ("INIT-9", (("-", "not applicable"),)),
        ("INIT-12", (("Δ", "known deviation"),)),
    ]


@pytest.mark.parametrize(
    ("verdict", "symbol"), [(Verdict.PASSED, "…"), (Verdict.DEVIATION, "…"), (Verdict.FAILED, "✗")]
)
def test_a_case_that_is_not_reported_could_be_worse(tmp_path, verdict, symbol):
    said = run_of(judged(verdict), cases=[BOUND, "INIT-12/other"], end=False)
    (section,) = sections(load(tmp_path, said))
    assert section.chapters[0].lines[0].symbols[0][0] == symbol


def test_peers_of_several_runs_stand_side_by_side(tmp_path):
    first = run_of(judged(Verdict.FAILED), cases=[BOUND, "INIT-9/magic"])
    second = run_of(judged(Verdict.PASSED, "INIT-9/magic", peer="qemu:7.2"), peer=1)
    (section,) = sections(load(tmp_path, first, second))
    assert [line.symbols for line in section.chapters[0].lines] == [
        (("…", "not reported"), ("✓", "passed")),
        (("✗", "failed"), ("", "not selected")),
    ]


def test_the_same_peer_of_two_runs_is_told_apart_by_the_file(tmp_path):
    found = columns(load(tmp_path, run_of(judged(Verdict.FAILED)), run_of(judged(Verdict.PASSED))))
    assert [c.label for c in found] == ["QEMU 5.2.0 (run0)", "QEMU 5.2.0 (run1)"]
    assert [c.outcome for c in found] == ["fails", "passes"]


def test_senders_and_receivers_have_a_section_each(tmp_path):
    found = sections(load(tmp_path, lines(2, 10), lines(1, 10, Role.SENDER)))
    assert [(s.role, [c.number for c in s.columns]) for s in found] == [
        ("receiver", [1, 2]),
        ("sender", [3]),
    ]


def test_a_peer_in_both_roles_has_a_column_in_each(tmp_path):
    receiver, sender = (lines(1, 10, role) for role in (Role.RECEIVER, Role.SENDER))
    head = receiver[0] | {"role": "receiver and sender"}
    head["cases"] = receiver[0]["cases"] + sender[0]["cases"]
    found = columns(load(tmp_path, [head, *receiver[1:-1], *sender[1:]]))
    assert [(c.number, c.role, len(c.rows), c.missing) for c in found] == [
        (1, "receiver", 10, []),
        (2, "sender", 10, []),
    ]


def test_a_peer_of_which_nothing_is_known_stands_in_its_role(tmp_path):
    said = run_of(cases=[BOUND, "PKT-1/any"])
    said[0] |= {"role": "receiver and sender"}
    said[0]["peers"] = [{"uri": "run:vmm", "role": "sender"}]
    (column,) = columns(load(tmp_path, said))
    assert (column.role, column.missing) == ("sender", ["PKT-1/any"])


# ---- Markdown ----------------------------------------------------------------------------------


def test_the_markdown_matrix(tmp_path):
    first = run_of(judged(Verdict.FAILED, failure="crashes"))
    second = run_of(judged(Verdict.PASSED, peer="qemu:7.2"), peer=1)
    text = rendered(tmp_path, load(tmp_path, first, second), ".md")
    assert "| QEMU 5.2.0 (`qemu:5.2`) | 5.2 | **fails** | ✗ 1 failed |\n" in text
    assert (
        "### 3. The init message\n\n"
        "| requirement |  | QEMU 5.2.0 | QEMU 7.2.22 |\n"
        "| --- | --- | :-: | :-: |\n"
        "| INIT-12 | refuse an id out of range (MUST) | ✗ | ✓ |\n"
    ) in text
    assert f"### ✗ {BOUND}, QEMU 5.2.0: failed (crashes)\n" in text
    assert f"- replay: `multifd replay {BOUND} qemu:5.2`\n" in text


def test_markdown_links_to_the_chapters_within_the_project(tmp_path):
    from multifd_proto.conformance.reports.markdown import report

    runs = load(tmp_path, run_of(judged(Verdict.PASSED)))
    link = "spec/03-init.md#init-12-refuse-an-id-out-of-range"
    assert f"| [INIT-12](../{link}) |" in report(runs, ROOT / "conformance")
    assert "| INIT-12 |" in report(runs, tmp_path)


def test_markdown_tells_that_a_run_is_incomplete(tmp_path):
    said = run_of(judged(Verdict.PASSED), cases=[BOUND, "INIT-9/magic"], end=False)
    text = rendered(tmp_path, load(tmp_path, said), ".md")
    assert "**incomplete** | ✓ 1 passed, … 1 not reported |" in text
    assert "**Incomplete**: the run `run0` was ended before it was done." in text


def test_a_peer_cannot_write_markdown(tmp_path):
    said = run_of(judged(Verdict.FAILED, observed=HOSTILE[0], reason=[HOSTILE[4]], log=HOSTILE[4]))
    text = rendered(tmp_path, load(tmp_path, said), ".md")
    assert r"- observed: \<script\>document.title='taken'\</script\>" in text
    assert r"- reason: \`\`\` \| a \| b \| \</details\>" in text
    assert f"````text\n{HOSTILE[4]}\n````\n" in text


# ---- HTML --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, and what they lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.rows: Counter[tuple[str, str]] = Counter()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.tags[tag] += 1
        self.ids += [said["id"]] if "id" in said else []
        self.links |= {said[name] for name in ("href", "src", "action") if name in said}
        assert not {name for name in said if name.startswith("on")}
        if "row" in said.get("class", "").split():
            self.rows[said["data-p"], said["data-v"]] += 1


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    said = lines(4, 200)
    return said, rendered(folder, load(folder, said), ".html")


def test_a_page_of_four_peers_is_small(big):
    assert len(big[1].encode()) < 2 << 20


def test_a_page_has_all_rows(big):
    number = {peer["uri"]: str(n) for n, peer in enumerate(peers(4), 1)}
    name = {verdict.value: verdict.name.lower().replace("_", "-") for verdict in Verdict}
    assert Page(big[1]).rows == Counter(
        (number[r["peer"]], name[r["verdict"]]) for r in big[0][1:-1]
    )


def test_a_page_is_one_file_in_which_a_peer_is_only_text(big):
    page = Page(big[1])
    assert page.tags["script"] == 1
    assert not page.tags["img"]
    assert {link for link in page.links if not link.startswith("#")} == {
        "data:,",
        "https://gitlab.com/qemu-project/qemu",
    }
    assert "\x1b" not in big[1]
    assert len(page.ids) == len(set(page.ids))


def test_the_browser_is_told_to_run_no_other_script(big):
    (script,) = re.findall(r"<script>(.*?)</script>", big[1], re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; " in big[1]
    assert f"script-src 'sha256-{digest}'; " in big[1]


def test_a_link_leads_to_the_web_or_is_text(tmp_path):
    known = {"reason": "it is known", "link": "javascript:alert(1)"}
    said = run_of(judged(Verdict.DEVIATION, deviation=known))
    text = rendered(tmp_path, load(tmp_path, said), ".html")
    assert "it is known" in text
    assert not {link for link in Page(text).links if link.startswith("javascript")}


def test_a_page_tells_that_a_run_is_incomplete_or_has_stale_entries(tmp_path):
    killed = run_of(judged(Verdict.PASSED), end=False)
    stale = run_of(judged(Verdict.PASSED))
    stale[-1]["stale"] = ["INIT-12/* of QEMU <11.0"]
    text = rendered(tmp_path, load(tmp_path, killed, stale), ".html")
    assert "Incomplete:</b> the run run0 was ended before it was done." in text
    assert "<li>INIT-12/* of QEMU &lt;11.0</li>" in text


def test_a_page_needs_jinja(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ReportError) as raised:
        render(load(tmp_path, lines(1, 5)), tmp_path / "report.html")
    assert str(raised.value) == (
        "an HTML report needs Jinja2: pip install 'multifd-proto[conformance]'"
    )


def test_bytes_are_shown_as_in_the_specification():
    assert dump(b"QEVM" + bytes(44) + b"\xff", 4096) == (
        "00000  51 45 56 4d 00 00 00 00  00 00 00 00 00 00 00 00  |QEVM............|\n"
        "00010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n"
        "*\n"
        "00030  ff                                                |.|\n"
        "... 4096 bytes in all"
    )


# ---- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_a_report_is_the_same_every_time(tmp_path, suffix):
    said = lines(2, 40)
    shuffled = [said[0], *Random(2).sample(said[1:-1], len(said) - 2), said[-1]]
    write(tmp_path / "run0.jsonl", said)
    first = rendered(tmp_path, read([tmp_path / "run0.jsonl"]), suffix)
    write(tmp_path / "run0.jsonl", shuffled)
    assert rendered(tmp_path, read([tmp_path / "run0.jsonl"]), suffix) == first


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_of_a_long_wire_log_the_end_is_shown(tmp_path, suffix):
    sent = {"time": 0.5, "wire": "1", "kind": "sent", "hex": "", "size": 0}
    log = [sent | {"what": f"packet {n}"} for n in range(100)]
    said = run_of(judged(Verdict.FAILED, exchanges=log))
    text = rendered(tmp_path, load(tmp_path, said), suffix)
    assert ">wire log, the last 64 of 100 lines</" in text.replace("Wire", "wire")
    assert re.findall(r"packet (\d+)", text) == [str(n) for n in range(36, 100)]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ReportError, match=r"report\.pdf: the suffix is '\.pdf', known are "):
        render(load(tmp_path, lines(1, 5)), tmp_path / "report.pdf")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"report\.md: No such file or directory$"):
        render(load(tmp_path, lines(1, 5)), tmp_path / "none" / "report.md")


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multifd_proto.conformance.reports", *map(str, words)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_writes_several_reports(tmp_path):
    path = write(tmp_path / "run.jsonl", lines(1, 5))
    done = command(path, "-o", tmp_path / "a.md", "-o", tmp_path / "a.html")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.md").read_text().startswith("# multifd conformance\n")
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>\n")


def test_the_command_names_what_is_wrong(tmp_path):
    (tmp_path / "run.jsonl").write_text(json.dumps({"type": "end"}) + "\n")
    done = command(tmp_path / "run.jsonl", "-o", tmp_path / "a.md")
    place = f"{tmp_path / 'run.jsonl'}: line 1"
    assert done.stderr == f"error: {place}: type is 'end', a run begins with 'run'\n"
    assert done.returncode == 1
