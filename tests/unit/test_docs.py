"""The documentation names every setting, metric and error code, and none that is gone."""

import re
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from supervisor import metrics
from supervisor.errors import ERROR_KINDS, ErrorCode
from supervisor.settings import Settings, load
from supervisor.settings_sources import key_paths

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "configs/codex-supervisor.toml"

SETTINGS = {".".join(path) for path in key_paths(Settings)}
SHOWS_NO_DEFAULT = {
    "state_dir",
    "database_url",
    "idle_exit_seconds",
    "codex_bin",
    "codex_home",
    "codex_config",
    "project_roots",
    "token_file",
    "allowed_origins",
    "podman.containers_conf",
    "podman.init_bin",
    "podman.uid",
    "podman.gid",
    "podman.mount_point",
    "podman.extra_mounts",
    "podman.projects",
    "proxy.socket",
    "proxy.key_file",
    "proxy.credential",
    "proxy.connect_allow",
    "disk.project_bytes",
}
"""Their default is empty, or depends on the machine: the example shows something to start from."""


TABLES_OF_ANY_NAME = {"podman.projects"}


def rows(page: str) -> list[list[str]]:
    """The cells of every table row of a page, headings and rulers left out."""
    lines = re.findall(r"^\|(.*)\|$", (DOCS / page).read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def code(cell: str) -> str:
    return cell.strip("`")


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def uncommented() -> str:
    return re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(), flags=re.MULTILINE)


def flat(values: dict[str, object], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and above + key not in TABLES_OF_ANY_NAME
        inner = flat(value, f"{above}{key}.") if nested else {above + key: value}
        found.update(inner)
    return found


def test_settings_page_has_every_setting_once() -> None:
    documented = [code(row[0]) for row in rows("settings.md")]

    assert sorted(documented) == sorted(SETTINGS)


def test_settings_page_tells_the_true_number_of_each_default() -> None:
    defaults = flat(Settings(state_dir=Path("/s")).model_dump())
    units = {"MiB": 1024**2, "GiB": 1024**3}
    for key, shown, _ in rows("settings.md"):
        number = re.fullmatch(r"`?([0-9.]+)`?(?: (MiB|GiB))?", shown)
        if number is not None and number[1].count(".") < 2:
            assert float(number[1]) * units.get(number[2], 1) == defaults[code(key)], key


def test_example_is_wholly_commented_out(tmp_path: Path) -> None:
    assert tomllib.loads(EXAMPLE.read_text()) == {}


def test_example_with_everything_uncommented_loads_and_has_every_setting(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(uncommented())

    load({}, env={"HOME": str(tmp_path)}, config_file=file, system_file=tmp_path / "none")
    assert set(flat(tomllib.loads(file.read_text()))) == SETTINGS


def test_example_shows_the_defaults() -> None:
    shown = flat(tomllib.loads(uncommented()))
    defaults = flat(Settings(state_dir=Path("/s")).model_dump())
    comparable = SETTINGS - SHOWS_NO_DEFAULT

    assert {key: shown[key] for key in comparable} == {key: defaults[key] for key in comparable}


def test_every_setting_with_a_unit_says_it_in_its_name() -> None:
    counts = {"requests_in_flight", "listen_port", "restart.intensity", "subscriber_queue_events"}
    counts |= {"pending_rows_limit", "podman.limits.pids", "podman.limits.cpus"}
    numbers = {
        key
        for key, value in flat(Settings(state_dir=Path("/s")).model_dump()).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }

    assert {key for key in numbers if not key.endswith(("_seconds", "_bytes"))} == counts


def metric_rows() -> dict[str, tuple[str, str, list[str]]]:
    """Every metric as registered: name, type and labels, as the page is to show them."""
    every = metrics.Metrics(CollectorRegistry())
    found = [value for value in vars(every).values() if isinstance(value, MetricWrapperBase)]
    assert len(found) > 20
    shown = {}
    for metric in found:
        name = f"{metric._name}_total" if metric._type == "counter" else str(metric._name)
        shown[name] = (name, str(metric._type), [str(label) for label in metric._labelnames])
    return shown


def test_metrics_page_has_every_metric_with_its_type_and_labels() -> None:
    documented = {
        code(row[0]): (code(row[0]), row[1], codes(row[2]))
        for row in rows("metrics.md")
        if code(row[0]).startswith("codex_supervisor_")
    }

    assert documented == metric_rows()


def test_every_registered_metric_of_ours_is_an_attribute() -> None:
    every = metrics.Metrics(CollectorRegistry())
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in every.registry.collect()
        if not family.name.startswith("process_")
    }

    assert exposed == set(metric_rows())


@pytest.mark.parametrize(
    ("label", "metric", "values"),
    [
        ("state", "agents", metrics.AGENT_STATES),
        ("kind", "agent_exits_total", metrics.EXIT_KINDS),
        ("kind", "lines_total", metrics.LINE_KINDS),
        ("reason", "lines_refused_total", metrics.LINE_REFUSALS),
        ("kind", "claims_ignored_total", metrics.CLAIM_KINDS),
        ("table", "store_rows_total", metrics.STORE_TABLES),
        ("outcome", "turns_total", metrics.TURN_OUTCOMES),
        ("outcome", "approvals_total", metrics.APPROVAL_OUTCOMES),
        ("reason", "server_requests_refused_total", metrics.SERVER_REQUEST_REFUSALS),
        ("outcome", "requests_total", metrics.REQUEST_OUTCOMES),
        ("reason", "rpc_refused_total", metrics.RPC_REFUSALS),
        ("transport", "connections", metrics.TRANSPORTS),
    ],
)
def test_metrics_page_has_every_value_of_a_label(
    label: str, metric: str, values: tuple[str, ...]
) -> None:
    shown = [
        codes(row[2]) for row in rows("metrics.md") if row[:2] == [f"`{label}`", f"`{metric}`"]
    ]

    assert shown == [list(values)]


def test_errors_page_has_every_code_with_whether_to_retry_and_its_exit_status() -> None:
    documented = {code(row[0]): (row[2], row[3]) for row in rows("errors.md")}

    assert documented == {
        each.value: ("yes" if kind.retryable else "no", str(kind.exit_status))
        for each, kind in ERROR_KINDS.items()
    }


def test_errors_page_says_when_each_code_comes() -> None:
    assert [row[0] for row in rows("errors.md") if len(row[1]) < 10] == []
    assert len(rows("errors.md")) == len(ErrorCode)


def test_pages_link_only_to_files_there_are() -> None:
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
