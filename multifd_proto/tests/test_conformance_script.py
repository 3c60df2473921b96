"""Scripts: readable, whole, and refused with the place where they are not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multifd_proto.conformance.script import (
    MAIN,
    STEPS,
    Absent,
    Arrive,
    Complete,
    DeviceState,
    Ended,
    Fin,
    Init,
    Main,
    Open,
    Pages,
    Pause,
    Raw,
    Reset,
    Script,
    ScriptError,
    Sync,
    load_script,
)

WIRE = st.sampled_from([MAIN, "0", "1", "12b"])
NUMBERS = st.lists(st.integers(0, 255), max_size=3).map(tuple)
FIELDS = st.dictionaries(
    st.sampled_from(["magic", "id", "pages_alloc"]), st.integers(0, 2**32), max_size=2
)
STEP = st.one_of(
    st.builds(Open, wire=WIRE),
    st.builds(Init, wire=WIRE, fields=FIELDS, first=st.none() | st.integers(0, 64)),
    st.builds(Sync, wire=WIRE, fields=FIELDS),
    st.builds(
        Pages, wire=WIRE, normal=NUMBERS, zero=NUMBERS, salt=st.integers(0, 9), fields=FIELDS,
        payload=st.none() | st.binary(max_size=4).map(bytes.hex), lands=st.booleans(),
    ),
    st.builds(DeviceState, wire=WIRE, size=st.integers(0, 20)),
    st.builds(
        Main, part=st.sampled_from(["start", "mark"]),
        blocks=st.none() | st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
    ),
    st.builds(Raw, wire=WIRE, hex=st.binary(max_size=4).map(bytes.hex)),
    st.builds(Fin, wire=WIRE, notify=st.booleans()),
    st.builds(Reset, wire=WIRE),
    st.builds(Pause, seconds=st.floats(0, 1)),
    st.builds(Arrive, page=st.integers(0, 255)),
    st.builds(Absent, page=st.integers(0, 255)),
    st.builds(Ended, wires=st.lists(WIRE, max_size=3).map(tuple)),
    st.builds(Complete, sync=st.booleans()),
)  # fmt: skip


@given(
    st.builds(
        Script,
        st.lists(STEP, max_size=8).map(tuple),
        name=st.text(max_size=8),
        channels=st.integers(1, 255),
        method=st.sampled_from(["none", "zlib"]),
        tls=st.booleans(),
        expect=st.sampled_from(["", "ACCEPTS"]),
    )
)
def test_what_is_written_is_read_back(script):
    assert load_script(script.to_json()) == script


def test_every_step_is_drawn_above():
    assert len(STEPS) == 14


def test_the_form_is_readable():
    steps = (Open(wire="main"), Pages(wire="0", normal=(1,), fields={"pages_alloc": 129}))
    head, *rest = Script(steps, "PKT-25/one-too-many", expect="REFUSES").to_json().splitlines()
    assert head == (
        '{"multifd-script": 1, "name": "PKT-25/one-too-many", "expect": "REFUSES", '
        '"setup": {"channels": 2, "method": "none", "tls": false}, "steps": ['
    )
    assert rest == [
        '  {"do": "open", "wire": "main"},',
        '  {"do": "pages", "wire": "0", "normal": [1], "fields": {"pages_alloc": 129}}',
        "]}",
    ]


def script(*rows: object, **values: object) -> str:
    return json.dumps({"multifd-script": 1, "steps": list(rows)} | values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "no script: 'multifd-script' must be 1"),
        ('{"multifd-script": 2}', "no script: 'multifd-script' must be 1"),
        ('{"multifd-script": 1}', "no script: 'steps' must be a list, and 'setup' an object"),
        (
            script(setup={"color": 1}),
            "setup: 'color' is unknown, must be channels, method or tls",
        ),
        (
            script(setup={"channels": "2"}),
            "setup: channels is '2', must be int",
        ),
        (script(7), f"step 0: 'do' is 7, must be one of {', '.join(STEPS)}"),
        (script({"do": "fly"}), f"step 0: 'do' is 'fly', must be one of {', '.join(STEPS)}"),
        (script({"do": "open"}), "step 0: 'wire' is missing"),
        (
            script({"do": "reset", "wire": "0", "if": 1}),
            "step 0: 'if' is unknown, must be one of wire",
        ),
        (
            script({"do": "open", "wire": "0"}, {"do": "arrive", "page": True}),
            "step 1: page is True, must be int",
        ),
        (
            script({"do": "pages", "wire": "0", "normal": ["a"]}),
            "step 0: normal is ['a'], must be tuple[int, ...]",
        ),
    ],
)  # fmt: skip
def test_what_is_no_script_is_refused(text, message):
    with pytest.raises(ScriptError) as error:
        load_script(text)
    assert str(error.value) == message
