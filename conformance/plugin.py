"""The pytest plugin: options, cases as tests, verdicts as outcomes, rows from xdist's workers.

It is loaded into every pytest of its environment, so it imports the suite only when a test asks
for one of its fixtures, and says nothing where none does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .options import CASE, OPTIONS, demands, selected, settings, targets

if TYPE_CHECKING:
    from .result import Ask
    from .rows import Row
    from .run import Run

_FIXTURES = {"multifd_case": "receiver", "multifd_heard": "sender"}
"""Fixture -> the role that is tested with it."""
_RUN = pytest.StashKey["Run"]()
_ROW = pytest.StashKey["Row"]()
_ACCOUNT = "multifd-account"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, all of them with a prefix."""
    group = parser.getgroup("multifd", "multifd conformance suite")
    for name, how in OPTIONS.items():
        group.addoption(f"--multifd-{name}", **how)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand a report for CI systems on to pytest itself, before its own plugin is configured."""
    config.addinivalue_line("markers", "xdist_group(name): tests that run in one worker")
    for path in config.getoption("multifd_report"):
        if path.suffix == ".xml":
            config.option.xmlpath = str(path)
    if any(
        config.getoption(f"multifd_{name}") for name in ("set", "deviations", "target", "report")
    ):
        _run(config)


def _run(config: pytest.Config) -> Run:
    """Return the run of this process; what is wrong with the options ends it."""
    if _RUN not in config.stash:
        from multifd_proto.errors import MultiFDError

        from .run import Run

        try:
            config.stash[_RUN] = Run(settings(config.getoption))
        except MultiFDError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_RUN]


# ---- collection ------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case and peer."""
    for fixture, role in _FIXTURES.items():
        if fixture in metafunc.fixturenames:
            module = metafunc.module.__name__.rpartition(".")[2]
            metafunc.parametrize(
                fixture, list(_params(metafunc.config, role, module)), indirect=True
            )


def _params(config: pytest.Config, role: str, module: str) -> Iterator[Any]:
    from multifd_proto.wire.requirements import Role

    from .catalogue import asks_of

    _run(config)
    uris = targets(config.getoption, role)
    for uri in uris:
        for ask in asks_of(Role(role), module):
            if not selected(config.getoption, ask):
                continue
            name = ask.case if len(uris) == 1 else f"{ask.case}@{uri}"
            marks = [pytest.mark.xdist_group(f"{ask.group}@{uri}")] if ask.group else []
            yield pytest.param((uri, ask), id=name, marks=marks)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has no case and, where a peer is named, what is no test of a peer."""
    named = bool(config.getoption("multifd_target"))
    left = [item for item in items if _asked(item) is None and _idle(item, named=named)]
    if left:
        config.hook.pytest_deselected(items=left)
        gone = set(left)
        items[:] = [item for item in items if item not in gone]


def _idle(item: pytest.Item, *, named: bool) -> bool:
    """Tell whether a test without a case has nothing to say in this run."""
    if set(_FIXTURES) & set(getattr(item, "fixturenames", ())):
        return True
    return named and Path(__file__).parent in item.path.parents


def _asked(item: pytest.Item) -> tuple[str, Ask] | None:
    """Return the peer and the case of a test; None if it is no test of a peer."""
    params = getattr(item, "callspec", None) and item.callspec.params  # type: ignore[attr-defined]
    found = [params[name] for name in _FIXTURES if params and name in params]
    # an empty list of cases leaves pytest's own mark as the parameter
    return found[0] if found and isinstance(found[0], tuple) else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the account of a run in one process."""
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        asked = [found for item in session.items if (found := _asked(item)) is not None]
        _open(session.config, [ask.case for _, ask in asked])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Open the account of a run in many, whose tests are known by their ids alone."""
    found = (CASE.search(test) for test in ids)
    _open(node.config, [match["case"] for match in found if match])


def _open(config: pytest.Config, cases: list[str]) -> None:
    """Begin the account, in the process that controls the run, if it is one of the suite."""
    if not cases or config.pluginmanager.has_plugin(_ACCOUNT):
        return
    from multifd_proto.errors import MultiFDError

    from .account import Account

    try:
        account = Account(config, _run(config), list(dict.fromkeys(cases)))
    except (MultiFDError, OSError) as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(account, _ACCOUNT)


# ---- running -----------------------------------------------------------------------------------


@pytest.fixture
def multifd_case(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Play a case to a receiver; called, it ends the test as the verdict demands."""
    return _judged(request)


@pytest.fixture
def multifd_heard(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Hear what a sender sends; called, it ends the test as the verdict demands."""
    return _judged(request)


def _judged(request: pytest.FixtureRequest) -> Callable[[], None]:
    from .rows import story

    uri, ask = request.param
    row = _run(request.config).judge(uri, ask)
    node = request.node
    node.stash[_ROW] = row
    for name in ("peer", "requirement", "level", "verdict", "failure"):
        node.user_properties.append((name, row[name] or ""))
    if row["verdict"] == "harness error":
        # in the setup of a test it is an error, and no failure
        pytest.fail(story(row), pytrace=False)
    return lambda: _conclude(request.config, row)


def _conclude(config: pytest.Config, row: Row) -> None:
    """End a test as its verdict demands."""
    from .rows import story, unexpected

    verdict = row["verdict"]
    if unexpected(row, **demands(config.getoption)):
        pytest.fail(story(row), pytrace=False)
    if verdict in ("not applicable", "not exercised", "inconclusive"):
        pytest.skip(f"{verdict}: {row['observed']}")
    if verdict == "known deviation":
        pytest.xfail(f"{row['deviation']['reason']}: {row['observed']}")
    if verdict == "failed":
        pytest.xfail(f"not scored in this set of requirements: {row['observed']}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Hang a row on the first report of its test."""
    report = yield
    if _ROW in item.stash:
        report.multifd_row = item.stash[_ROW]
        del item.stash[_ROW]
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of all peers."""
    if _RUN in config.stash:
        config.stash[_RUN].close()
