"""What `doctor` says of things that are broken, and that each check leaves them as they are."""

import fcntl
import os
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor.cli.checks import Finding, Verdict, codex, containers, machine, service, state
from supervisor.cli.doctor import every_check, examined
from supervisor.clock import SystemClock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.settings import PINNED_CODEX_VERSION, Settings
from supervisor.stores.migrations import HEAD
from supervisor.stores.sql import SqlStore

PAGE = (Path(__file__).parents[3] / "docs/doctor.md").read_text()
FAIL, OK, WARN = Verdict.FAIL, Verdict.OK, Verdict.WARN


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A good installation that was never started."""
    (tmp_path / "codex-home").mkdir()
    return Settings(state_dir=tmp_path / "state", codex_home=tmp_path / "codex-home", listen_port=0)


def changed(settings: Settings, **values: object) -> Settings:
    return Settings(**{**settings.model_dump(), "token_file": settings.token_file, **values})  # type: ignore[arg-type]


def made(settings: Settings) -> Path:
    settings.state_dir.mkdir(mode=0o700)
    return settings.state_dir


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def stored(settings: Settings) -> Path:
    """A database as the supervisor makes it."""
    path = made(settings) / "supervisor.db"
    store = SqlStore(f"sqlite:///{path}", clock=SystemClock())
    await store.open()
    await store.close()
    return path


def test_page_has_every_check_and_no_other() -> None:
    assert re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE) == ["settings", *every_check()]


@pytest.mark.parametrize("name", sorted(every_check().keys() - containers.CHECKS))
def test_good_installation_has_no_failure_and_is_left_as_it_was(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))

    found = examined(every_check()[name], settings)

    assert found.verdict is not FAIL, found
    assert sorted(tmp_path.rglob("*")) == before


def test_check_that_raises_is_a_failure_and_not_the_end(settings: Settings) -> None:
    def broken(_: Settings) -> Finding:
        raise ZeroDivisionError("by zero")

    def refused(_: Settings) -> Finding:
        raise SupervisorError(ErrorCode.CODEX_MISSING, "no codex")

    assert examined(broken, settings).verdict is FAIL
    assert "by zero" in examined(broken, settings).says
    assert examined(refused, settings).says == "no codex"


# -- the machine


@pytest.mark.parametrize("check", machine.CHECKS.values(), ids=list(machine.CHECKS))
def test_machine_that_runs_the_tests_is_good_enough(
    settings: Settings, check: Callable[[Settings], Finding]
) -> None:
    assert check(settings).verdict is not FAIL


def test_clock_behind_the_last_run_is_told(settings: Settings) -> None:
    file = made(settings) / "last-run"
    file.write_text("{}")
    later = SystemClock().now().timestamp() + 86_400
    os.utime(file, (later, later))

    assert machine.clock(settings).verdict is WARN


# -- codex


def test_missing_codex_is_named(settings: Settings, tmp_path: Path) -> None:
    found = codex.binary(changed(settings, codex_bin=tmp_path / "nowhere"))

    assert found.verdict is FAIL
    assert str(tmp_path / "nowhere") in found.says


@pytest.mark.parametrize(
    ("allowed", "verdict"), [(False, FAIL), (True, WARN)], ids=["pinned", "allowed"]
)
def test_codex_of_another_version_is_told(
    settings: Settings, tmp_path: Path, allowed: bool, verdict: Verdict
) -> None:
    fake = script(tmp_path / "codex", "echo codex-cli 0.99.0")

    found = codex.binary(changed(settings, codex_bin=fake, allow_other_codex_version=allowed))

    assert found.verdict is verdict
    assert "0.99.0" in found.says
    assert PINNED_CODEX_VERSION in found.says


@pytest.mark.parametrize("text", ["exit 3", "exit 0", "echo; kill -9 $$"])
def test_codex_that_does_not_say_its_version_is_told(
    settings: Settings, tmp_path: Path, text: str
) -> None:
    fake = script(tmp_path / "codex", text)

    assert codex.binary(changed(settings, codex_bin=fake)).verdict is FAIL


def test_codex_of_the_pinned_version_is_good(settings: Settings, tmp_path: Path) -> None:
    fake = script(tmp_path / "codex", f"echo codex-cli {PINNED_CODEX_VERSION}")

    assert codex.binary(changed(settings, codex_bin=fake)).verdict is OK


@pytest.mark.codex
def test_installed_codex_is_the_pinned_one(settings: Settings) -> None:
    assert codex.binary(settings).verdict is OK


def test_codex_home_that_is_not_there_is_told(settings: Settings, tmp_path: Path) -> None:
    assert codex.home(changed(settings, codex_home=tmp_path / "none")).verdict is FAIL
    (tmp_path / "file").touch()
    assert codex.home(changed(settings, codex_home=tmp_path / "file")).verdict is FAIL


@pytest.mark.parametrize(
    ("mode", "text", "verdict"),
    [(0o600, '{"OPENAI_API_KEY": "secret"}', OK), (0o644, "secret", WARN), (0o600, "", WARN)],
    ids=["good", "readable by others", "empty"],
)
def test_login_is_seen_and_never_shown(
    settings: Settings, mode: int, text: str, verdict: Verdict
) -> None:
    auth = settings.codex_home / "auth.json"
    auth.write_text(text)
    auth.chmod(mode)

    found = codex.login(settings)

    assert found.verdict is verdict
    assert "secret" not in f"{found.says} {found.hint}"


def test_no_login_is_told_with_how_to_make_one(settings: Settings) -> None:
    found = codex.login(settings)

    assert found.verdict is WARN
    assert "codex login" in str(found.hint)


def test_model_provider_of_ones_own_needs_no_login(settings: Settings) -> None:
    (settings.codex_home / "config.toml").write_text('model_provider = "mine"\n')

    assert codex.login(settings).verdict is OK
    assert codex.login(changed(settings, codex_config=("model_provider=openai",))).verdict is WARN


def test_model_provider_with_a_key_in_the_environment_is_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.codex_home / "config.toml").write_text(
        'model_provider = "mine"\n[model_providers.mine]\nenv_key = "MY_MODEL_KEY"\n'
    )

    assert codex.login(settings).verdict is WARN
    monkeypatch.setenv("MY_MODEL_KEY", "secret")
    found = codex.login(settings)
    assert found.verdict is OK
    assert "secret" not in found.says


# -- the state directory


def test_state_directory_others_can_read_is_refused(settings: Settings) -> None:
    made(settings).chmod(0o755)

    found = state.directory(settings)

    assert found.verdict is FAIL
    assert "0755" in found.says


def test_state_directory_behind_a_symlink_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    settings.state_dir.symlink_to(tmp_path / "real")
    assert state.directory(settings).verdict is FAIL
    settings.state_dir.unlink()
    settings.state_dir.symlink_to(tmp_path / "nowhere")
    assert state.directory(settings).verdict is FAIL
    assert not (tmp_path / "nowhere").exists()


def test_state_directory_that_is_good_is_good(settings: Settings) -> None:
    made(settings)

    assert state.directory(settings).verdict is OK
    assert state.filesystem(settings).verdict is OK
    assert list(settings.state_dir.iterdir()) == []


def test_socket_path_the_kernel_refuses_is_told(settings: Settings, tmp_path: Path) -> None:
    base = len(os.fsencode(tmp_path / "/api.sock")) + len(os.fsencode(tmp_path)) + 1
    fits = changed(settings, state_dir=tmp_path / ("x" * (107 - base)))
    assert state.socket(fits).verdict is OK
    assert state.socket(changed(settings, state_dir=Path(f"{fits.state_dir}x"))).verdict is FAIL


def test_token_others_can_read_is_told(settings: Settings) -> None:
    token = made(settings) / "token"
    token.write_text("secret")
    token.chmod(0o600)
    assert state.token(settings).verdict is OK
    token.chmod(0o640)
    found = state.token(settings)
    assert found.verdict is FAIL
    assert "secret" not in f"{found.says} {found.hint}"


def test_file_system_that_takes_no_fifo_is_told(settings: Settings) -> None:
    found = state.filesystem(changed(settings, state_dir=Path("/proc/nowhere")))

    assert found.verdict is FAIL


# -- the database


async def test_good_database_is_shown_with_its_revision(settings: Settings) -> None:
    path = await stored(settings)
    before = path.read_bytes()

    found = state.database(settings)

    assert found.verdict is OK
    assert HEAD in found.says
    assert path.read_bytes() == before


async def test_corrupt_database_is_told(settings: Settings) -> None:
    path = await stored(settings)
    content = bytearray(path.read_bytes())
    content[:100] = b"\xff" * 100
    path.write_bytes(content)

    found = state.database(settings)

    assert found.verdict is FAIL
    assert "corrupt" in found.says
    assert path.read_bytes() == content


async def test_database_of_a_newer_release_is_told(settings: Settings) -> None:
    path = await stored(settings)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()

    found = state.database(settings)

    assert found.verdict is FAIL
    assert "9999" in found.says
    assert "Upgrade" in str(found.hint)


async def test_locked_database_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.05)
    path = await stored(settings)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        found = state.database(settings)

        other.execute("ROLLBACK")
    assert found.verdict is FAIL
    assert "locked" in found.says


async def test_database_named_by_its_url_is_looked_at(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    path = tmp_path / "own/my.db"
    path.write_text("no database at all, and long enough to be read as one" * 40)

    found = state.database(changed(settings, database_url=f"sqlite:///{path}"))

    assert found.verdict is FAIL
    assert str(path) in found.says


async def test_database_in_an_unsafe_place_is_not_opened(settings: Settings) -> None:
    path = await stored(settings)
    settings.state_dir.chmod(0o755)
    before = sorted(path.parent.iterdir())

    assert state.database(settings).verdict is WARN
    assert sorted(path.parent.iterdir()) == before


# -- the supervisor


@contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield taken.getsockname()[1]


def test_port_somebody_else_has_is_told(settings: Settings) -> None:
    with listening() as port:
        found = service.port(changed(settings, listen_port=port))

    assert found.verdict is FAIL
    assert str(port) in found.says
    assert service.port(changed(settings, listen_port=port)).verdict is OK


def test_no_supervisor_is_no_failure(settings: Settings) -> None:
    assert service.running(settings).verdict is OK
    assert service.projects(settings).verdict is OK
    assert not settings.state_dir.exists()


def test_supervisor_that_holds_the_lock_and_does_not_answer_is_named(settings: Settings) -> None:
    lock = made(settings) / "lock"
    owner = {"pid": os.getpid(), "started": "2026-01-01T00:00:00+00:00", "socket": "s"}
    lock.write_bytes(msgspec.json.encode(owner))
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = service.running(settings)

    assert found.verdict is FAIL
    assert str(os.getpid()) in found.says
    assert service.running(settings).verdict is OK
