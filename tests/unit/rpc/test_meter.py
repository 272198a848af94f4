from prometheus_client import CollectorRegistry

from supervisor.metrics import Metrics
from supervisor.rpc.meter import PrometheusMeter


def test_what_the_rpc_counts_is_in_the_metrics() -> None:
    metrics = Metrics(CollectorRegistry())
    meter = PrometheusMeter(metrics)
    meter.request("sendMessage", None, 0.1)
    meter.request("sendMessage", "turn_active", 0.1)
    meter.request("unknown", "method_unknown", 0.0)
    meter.error_sent("turn_active")
    meter.refused("http", "unauthenticated")
    meter.connection_opened("unix")
    meter.connection_opened("unix")
    meter.connection_closed("unix")

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"codex_supervisor_{name}", labels)

    assert value("requests_total", method="sendMessage", outcome="ok") == 1
    assert value("requests_total", method="sendMessage", outcome="error") == 1
    assert value("requests_total", method="unknown", outcome="error") is None
    assert value("rpc_errors_total", code="turn_active") == 1
    assert value("rpc_refused_total", reason="unauthenticated") == 1
    assert value("connections", transport="unix") == 1
