"""A finding, played once more: is it still there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from multifd_proto.conformance.judging import words
from multifd_proto.conformance.observation import Reaction
from multifd_proto.conformance.player import Budgets
from multifd_proto.conformance.trial import Tried
from multifd_proto.conformance.verdict import Failure, Judgement, Verdict

from .decoders import DecoderTarget
from .oracle import Expected
from .receivers import Played, ReceiverTarget
from .senders import try_misdeeds

_FAILURES = {failure.value: failure for failure in Failure}


def is_finding(name: str) -> bool:
    """Tell whether a file is a finding, well-formed or not."""
    try:
        data = json.loads(Path(name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "finding" in data


def try_finding(name: str, uri: str, budgets: Budgets) -> Tried:
    """Run the input of a finding against a peer once more, and let the oracle judge.

    It has failed if anything is wrong, be it something else than what was found.

    Args:
        name: file of the finding.
        uri: of the receiver or sender; for one of our own parts its name, such as `channel`.
        budgets: how long is waited for a receiver.

    Raises:
        PeerError: the peer cannot be used.
        MultiFDError: the input cannot be read or run.
    """
    data = json.loads(Path(name).read_bytes())
    if "multifd-misdeeds" in data:
        return try_misdeeds(data, uri)
    if "subject" in data:  # of one of our own parts
        return _try_bytes(data, uri)
    said = data["finding"]
    against = said.get("against") if isinstance(said, dict) else None
    with ReceiverTarget(uri, against) as target:
        played = target.play(target.from_json(data), budgets)
    return Tried(_judgement(played), played.seen.exchanges)


def _try_bytes(data: dict[str, object], name: str) -> Tried:
    with closing(DecoderTarget(name)) as target:
        found = target.run(target.from_json(data), patient=True).finding
    if found is None:
        return Tried(Judgement(Verdict.PASSED, "nothing is wrong"))
    return Tried(Judgement(Verdict.FAILED, f"{found.signature}: {found.observed}"))


def _judgement(played: Played) -> Judgement:
    text, finding, prepared = words(played.seen), played.finding, played.prepared
    if finding:
        said = f"{finding.signature}: {text}"
        return Judgement(Verdict.FAILED, said, _FAILURES.get(finding.kind))
    if prepared.expected is Expected.WAITS:
        return Judgement(Verdict.PASSED, f"waits, as it has to: {prepared.why}")
    if played.seen.reaction is Reaction.UNREACHED:
        return Judgement(Verdict.INCONCLUSIVE, text)
    return Judgement(Verdict.PASSED, text)
