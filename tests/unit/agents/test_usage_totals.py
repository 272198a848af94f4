"""What all agents use together: the sums, and that no counter ever goes back."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from supervisor.agents.usage import Grown, UsageTotals, show
from supervisor.metrics import AGENT_WALLS, Metrics
from supervisor.ports.runtime import Usage

MIB = 1 << 20


def usage(**changes: object) -> Usage:
    made = Usage(
        memory_bytes=100 * MIB,
        memory_limit_bytes=1000 * MIB,
        memory_peak_bytes=None,
        cpu_seconds=2.5,
        throttled_seconds=0.5,
        throttled_periods=5,
        pids=10,
        pids_limit=512,
        oom_kills=1,
    )
    return msgspec.structs.replace(made, **changes)


def test_what_all_use_is_added_up() -> None:
    together = UsageTotals().take(
        {
            "a": usage(),
            "b": usage(memory_bytes=600 * MIB, pids=7),
            "c": usage(memory_bytes=900 * MIB, memory_limit_bytes=None, pids_limit=None),
        }
    )
    assert together.agents == 3
    assert together.memory_bytes == 1600 * MIB
    # Of c nobody can say how near it is to a limit.
    assert together.memory_ratio_max == 0.6
    assert together.pids == 27
    assert (together.without_memory_limit, together.without_pids_limit) == (1, 1)
    assert together.grown == Grown(cpu_seconds=7.5, throttled_seconds=1.5, oom_kills=3)


def test_counters_grow_by_what_is_new() -> None:
    totals = UsageTotals()
    totals.take({"a": usage(cpu_seconds=2)})
    assert totals.take({"a": usage(cpu_seconds=5)}).grown == Grown(cpu_seconds=3)
    assert totals.take({"a": usage(cpu_seconds=5)}).grown == Grown()


def test_a_new_generation_counts_from_its_own_zero() -> None:
    totals = UsageTotals()
    totals.take({"p:1": usage(cpu_seconds=100, oom_kills=4)})
    grown = totals.take({"p:2": usage(cpu_seconds=1, oom_kills=0, throttled_seconds=0)}).grown
    assert grown == Grown(cpu_seconds=1)


def test_an_adopted_one_counts_from_when_it_was_adopted() -> None:
    totals = UsageTotals()
    totals.know("a", usage(cpu_seconds=1000))
    assert totals.take({"a": usage(cpu_seconds=1001)}).grown == Grown(cpu_seconds=1)


def test_no_agents_use_nothing() -> None:
    together = UsageTotals().take({})
    assert (together.agents, together.memory_bytes, together.memory_ratio_max) == (0, 0, 0)
    assert together.grown == Grown()


readings = st.builds(
    usage,
    cpu_seconds=st.floats(0, 1e6),
    throttled_seconds=st.floats(0, 1e6),
    oom_kills=st.integers(0, 1000),
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), readings), max_size=12))
def test_counters_never_go_back_whatever_comes_and_goes(looks: list[dict[str, Usage]]) -> None:
    totals, metrics = UsageTotals(), Metrics(CollectorRegistry())
    names = ("agent_cpu_seconds_total", "agent_throttled_seconds_total", "agent_oom_kills_total")
    before = [0.0, 0.0, 0.0]
    for live in looks:
        show(totals.take(live), metrics)
        now = [value(metrics, name) for name in names]
        assert all(a <= b for a, b in zip(before, now, strict=True))
        before = now


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"codex_supervisor_{name}", labels)
    assert found is not None
    return found


def test_the_metrics_show_it() -> None:
    metrics = Metrics(CollectorRegistry())
    assert [value(metrics, "agents_without", wall=wall) for wall in AGENT_WALLS] == [0, 0, 0]
    show(UsageTotals().take({"a": usage(pids_limit=None), "b": usage()}), metrics)
    assert value(metrics, "agents_measured") == 2
    assert value(metrics, "agent_memory_bytes") == 200 * MIB
    assert value(metrics, "agent_memory_ratio_max") == 0.1
    assert value(metrics, "agent_pids") == 20
    assert value(metrics, "agent_cpu_seconds_total") == 5
    assert value(metrics, "agent_throttled_seconds_total") == 1
    assert value(metrics, "agent_oom_kills_total") == 2
    assert value(metrics, "agents_without", wall="pids_limit") == 1
    assert value(metrics, "agents_without", wall="memory_limit") == 0
