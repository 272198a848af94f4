"""Audit records as the RPC shows and verifies them."""

from typing import Any

import msgspec
import pytest

from supervisor.audit.chain import GENESIS, Chain
from supervisor.audit.record import project_stopped
from supervisor.errors import ErrorCode
from supervisor.ids import Generation, ProjectId
from supervisor.policy.access import Principal
from supervisor.ports.store import AuditRow
from tests.unit.rpc.fakes import THREAD
from tests.unit.rpc.test_dispatch import P1, Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_audit_records_are_shown_in_camel_case(bench: Bench) -> None:
    bench.agent.records = [audit_row(seq) for seq in range(5)]
    shown: Any = await bench.call(P1, "listAudit", {"afterSeq": 1, "limit": 2})
    assert [one["seq"] for one in shown["records"]] == [2, 3]
    assert shown["records"][0]["threadId"] == THREAD
    assert shown["records"][0]["detail"] == {"command": "ls"}


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 1001}, {"afterSeq": -2}])
async def test_audit_pages_are_bounded(bench: Bench, params: object) -> None:
    assert (await bench.refused(P1, "listAudit", params)).code is ErrorCode.BAD_REQUEST


def chained(count: int) -> list[AuditRow]:
    chain = Chain(ProjectId("p1"), "host")
    who = Principal(account="a", principal="p", source="s", client="c")
    return [chain.append(project_stopped(who), float(n)) for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 2500])
async def test_a_whole_chain_of_any_length_is_verified(bench: Bench, count: int) -> None:
    rows = bench.agent.records = chained(count)
    head = rows[-1].hash if rows else GENESIS
    bench.agent.end = (count + 1, head)
    shown = await bench.call(P1, "verifyAudit", {})
    assert shown == {"ok": True, "checked": count, "head": head, "problem": None, "atSeq": None}


async def test_records_that_came_while_reading_are_left_for_the_next_time(bench: Bench) -> None:
    rows = bench.agent.records = chained(5)
    bench.agent.end = (4, rows[2].hash)
    shown: Any = await bench.call(P1, "verifyAudit", {})
    assert (shown["ok"], shown["checked"]) == (True, 3)


@pytest.mark.parametrize(
    ("tamper", "problem", "at"),
    [
        (lambda rows: rows[:1499] + rows[1500:], "gap", 1501),
        (lambda rows: rows[:-1], "cut", 2000),
        (lambda rows: [], "cut", 1),
        (
            lambda rows: [
                msgspec.structs.replace(r, kind="x") if r.seq == 1500 else r for r in rows
            ],
            "edited",
            1500,
        ),
    ],
)
async def test_a_chain_that_was_changed_is_found_out(
    bench: Bench, tamper: Any, problem: str, at: int
) -> None:
    rows = chained(2000)
    bench.agent.records, bench.agent.end = tamper(rows), (2001, rows[-1].hash)
    shown: Any = await bench.call(P1, "verifyAudit", {})
    assert (shown["ok"], shown["problem"], shown["atSeq"]) == (False, problem, at)
    assert shown["checked"] == at - (2 if problem == "gap" else 1)


def audit_row(seq: int) -> AuditRow:
    return AuditRow(
        project=ProjectId("p1"),
        seq=seq,
        at=1.0,
        kind="command",
        phase="outcome",
        account="local",
        principal="alice",
        source="test",
        client="tests",
        host="h",
        generation=Generation(1),
        n=seq,
        thread_id=THREAD,
        turn_id=None,
        item_id=None,
        detail=b'{"command":"ls"}',
        hash="h",
    )
