"""Metrics: complete from the start, with a closed set of series."""

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from supervisor import metrics
from supervisor.lifecycle.agent import AgentState
from supervisor.lifecycle.restart import ExitKind
from supervisor.lifecycle.turn import TurnState
from supervisor.metrics import Metrics
from supervisor.protocol.jsonrpc import Kind, Problem


@pytest.fixture
def ours() -> Metrics:
    return Metrics(CollectorRegistry())


def value(ours: Metrics, name: str, **labels: str) -> float | None:
    return ours.registry.get_sample_value(f"codex_supervisor_{name}", labels)


def test_exposition_is_prometheus_text(ours: Metrics) -> None:
    ours.set_build("1.0", "0.163.0")
    families = {each.name for each in text_string_to_metric_families(ours.exposition().decode())}

    assert "codex_supervisor_lines" in families
    assert metrics.CONTENT_TYPE.startswith("text/plain")


def test_a_counted_line_shows_in_its_series_only(ours: Metrics) -> None:
    ours.line["notification"].inc(3)

    assert value(ours, "lines_total", kind="notification") == 3
    assert value(ours, "lines_total", kind="response") == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("agents", {"state": "quarantined"}),
        ("agent_exits_total", {"kind": "oom"}),
        ("lines_refused_total", {"reason": "not_utf8"}),
        ("turns_total", {"outcome": "failed"}),
        ("approvals_total", {"outcome": "accepted"}),
        ("server_requests_refused_total", {"reason": "unknown"}),
        ("rpc_errors_total", {"code": "turn_active"}),
        ("rpc_refused_total", {"reason": "junk"}),
        ("connections", {"transport": "websocket"}),
        ("store_failures_total", {}),
    ],
)
def test_a_series_is_there_before_its_first_event(
    ours: Metrics, name: str, labels: dict[str, str]
) -> None:
    assert value(ours, name, **labels) == 0


def test_series_of_methods_are_made_on_request(ours: Metrics) -> None:
    assert value(ours, "requests_total", method="listThreads", outcome="ok") is None
    ours.start_methods(["listThreads"])

    assert value(ours, "requests_total", method="listThreads", outcome="ok") == 0
    assert value(ours, "requests_total", method="listThreads", outcome="error") == 0


def test_there_is_one_build_at_a_time(ours: Metrics) -> None:
    ours.set_build("1.0", "0.163.0")
    ours.set_build("1.1", "0.170.0")

    assert value(ours, "build_info", version="1.0", codex_version="0.163.0") is None
    assert value(ours, "build_info", version="1.1", codex_version="0.170.0") == 1


def test_metrics_of_two_supervisors_in_one_process_are_apart() -> None:
    one, other = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.late_bytes.inc(5)

    assert value(other, "late_bytes_total") == 0


def test_names_have_our_prefix_and_base_units(ours: Metrics) -> None:
    families = [each for each in ours.registry.collect() if not each.name.startswith("process_")]

    assert [each.name for each in families if not each.name.startswith("codex_supervisor_")] == []
    odd = re.compile(r"(_ms|_millis\w*|_us|_kb|_mb|_kib|_mib|_minutes)$")
    assert [each.name for each in families if odd.search(each.name)] == []
    histograms = [each.name for each in families if each.type == "histogram"]
    assert [name for name in histograms if not name.endswith(("_seconds", "_bytes"))] == []


def test_labels_have_the_words_of_the_state_tables() -> None:
    assert set(metrics.AGENT_STATES) == {state.value for state in AgentState}
    assert set(metrics.EXIT_KINDS) == {kind.value for kind in ExitKind}
    assert set(metrics.TURN_OUTCOMES) < {state.value for state in TurnState}
    assert set(metrics.LINE_KINDS) == {kind.value for kind in Kind}
    assert set(metrics.LINE_REFUSALS) == {"too_large"} | {problem.value for problem in Problem}
