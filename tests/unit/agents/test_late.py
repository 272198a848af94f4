"""Bytes that come into a spool after its end."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from supervisor.agents.late import SPOOLS_LOOKED_AT, LateBytes
from supervisor.metrics import Metrics


def test_late_bytes_are_counted_once_and_a_spool_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    late = LateBytes(metrics.late_bytes)

    def counted() -> float | None:
        late.count()
        return metrics.registry.get_sample_value("codex_supervisor_late_bytes_total")

    spool = tmp_path / "stdout"
    spool.write_bytes(b"12345")
    late.ended(spool, 5)
    assert counted() == 0
    with spool.open("ab") as still_open:
        still_open.write(b"678")
        still_open.flush()
        assert counted() == 3
        assert counted() == 3
        still_open.write(b"9")
    assert counted() == 4
    spool.unlink()
    assert counted() == 4


def test_only_the_newest_spools_are_looked_at(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    late = LateBytes(metrics.late_bytes)
    for n in range(SPOOLS_LOOKED_AT + 1):
        (tmp_path / str(n)).write_bytes(b"late")
        late.ended(tmp_path / str(n), 0)
    late.count()
    counted = metrics.registry.get_sample_value("codex_supervisor_late_bytes_total")
    assert counted == 4 * SPOOLS_LOOKED_AT
