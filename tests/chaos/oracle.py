"""The oracle: a kept, unpunched copy of every spool, and the model's own numbered text.

It believes neither the supervisor's numbers nor its database.
"""

import json
from pathlib import Path
from typing import Any

from supervisor.testing.numbered import check_numbered
from tests.chaos.reader import Reader
from tests.rig import Rig


def spooled(rig: Rig, project: str) -> list[dict[str, Any]]:
    """Every message to be shown that the app-servers ever said, in order."""
    directory = rig.state_dir / "projects" / project
    generations = sorted((p for p in directory.iterdir() if p.name.isdigit()), key=_number)
    found: list[dict[str, Any]] = []
    for generation in generations:
        spool = generation / "stdout"
        lines = spool.read_bytes().split(b"\n")[:-1] if spool.exists() else []
        messages = [json.loads(line) for line in lines]
        found += [m for m in messages if "method" in m]
    return found


def _number(path: Path) -> int:
    return int(path.name)


def is_own(message: dict[str, Any]) -> bool:
    """The supervisor's word, not the app-server's."""
    return message["method"].startswith("supervisor/") or bool(
        message.get("params", {}).get("synthesised")
    )


def check_stream(rig: Rig, project: str, reader: Reader) -> int:
    """Every line exactly once and in order, from the first one seen; how many there were."""
    truth = spooled(rig, project)
    seen = [m for m in reader.messages() if not is_own(m)]
    assert seen, "the reader saw nothing"
    start = truth.index(seen[0])
    expected = truth[start:]
    for i, (wanted, got) in enumerate(zip(expected, seen, strict=False)):
        assert wanted == got, f"line {i}: the spool has {wanted}, the reader {got}"
    assert len(seen) == len(expected), f"{len(expected)} lines spooled, {len(seen)} seen"
    return len(seen)


def check_cursors(reader: Reader) -> None:
    """Cursors only rise, in one epoch; each event names the one before it; nothing expired.

    A reader slowed by the machine may be told that it lags: it is read the log again, whole.
    """
    others = [o for o in reader.others if o["type"] != "lagging"]
    assert [o["type"] for o in others] == ["snapshot"], others[1:]
    cursor = reader.others[0]["cursor"]
    for event in reader.events:
        assert event["prev"] == cursor, f"a gap before {event['cursor']}: {event['prev']}"
        epoch, n = event["cursor"].split(".")
        before_epoch, before_n = cursor.split(".")
        assert epoch == before_epoch
        assert int(n) > int(before_n)
        cursor = event["cursor"]


def check_text(reader: Reader, turn_id: str, count: int, size: int, *, unicode: bool) -> None:
    """The deltas of a turn's message are the model's numbered text, whole."""
    text = "".join(
        m["params"]["delta"]
        for m in reader.messages()
        if m["method"] == "item/agentMessage/delta" and m["params"]["turnId"] == turn_id
    )
    assert check_numbered(text, size, unicode=unicode) == count


def check_ran_once(rig: Rig, tag: str, requests: int) -> None:
    """The model was asked for the turn of that tag as often as one run of it takes."""
    asked = [r for r in rig.model.requests if tag in r.prompt]
    assert len(asked) == requests, f"{tag}: the model saw {len(asked)} requests, not {requests}"
    assert len({r.turn_id for r in asked}) == 1
