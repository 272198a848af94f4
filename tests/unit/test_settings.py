"""Settings: which source wins, and what a mistake in any of them is told."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ports.runtime import MARKER_VARIABLE
from supervisor.settings import Settings, environment, load
from supervisor.settings_sources import RESERVED_VARIABLES

Load = Callable[..., Settings]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "home/.config/codex-supervisor").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def told(files: Path) -> Load:
    """`load` with a home, a person's and a machine's file of its own."""

    def load_here(
        flags: Mapping[str, object] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        config: str | None = None,
        user: str | None = None,
        system: str | None = None,
    ) -> Settings:
        places = {
            files / "named.toml": config,
            files / "home/.config/codex-supervisor/config.toml": user,
            files / "system.toml": system,
        }
        for path, text in places.items():
            if text is not None:
                path.write_text(text)
        return load(
            flags or {},
            env={"HOME": str(files / "home"), **(env or {})},
            config_file=files / "named.toml" if config is not None else None,
            system_file=files / "system.toml",
        )

    return load_here


def mistake(loading: Callable[[], object]) -> str:
    with pytest.raises(SupervisorError) as caught:
        loading()
    assert caught.value.code is ErrorCode.SETTINGS_INVALID
    return caught.value.message


def test_without_any_source_defaults_follow_the_home(told: Load, files: Path) -> None:
    settings = told()

    assert settings.state_dir == files / "home/.local/state/codex-supervisor"
    assert settings.token_file == settings.state_dir / "token"
    assert settings.codex_home == files / "home/.codex"
    assert settings.listen_port == 7878


def test_each_source_yields_to_the_stronger_one(told: Load) -> None:
    assert told(system="listen_port = 1").listen_port == 1
    assert told(user="listen_port = 2").listen_port == 2
    assert told(config="listen_port = 3").listen_port == 3
    assert told(config="", env={"CODEX_SUPERVISOR_LISTEN_PORT": "4"}).listen_port == 4
    strongest = told({"listen_port": 5}, env={"CODEX_SUPERVISOR_LISTEN_PORT": "4"})
    assert strongest.listen_port == 5


def test_one_key_of_a_group_does_not_hide_the_others_of_a_weaker_source(told: Load) -> None:
    restart = told(
        {"restart": {"intensity": 9}},
        env={"CODEX_SUPERVISOR_RESTART__PERIOD_SECONDS": "8"},
        system="[restart]\nbase_seconds = 0.7\nintensity = 1",
    ).restart

    assert (restart.intensity, restart.period_seconds, restart.base_seconds) == (9, 8, 0.7)
    assert restart.cap_seconds == 30


def test_a_flag_that_was_not_given_hides_nothing(told: Load) -> None:
    settings = told({"listen_port": None, "restart": {"intensity": None}}, user="listen_port = 2")

    assert settings.listen_port == 2
    assert settings.restart.intensity == 5


def test_an_empty_variable_counts_as_unset(told: Load) -> None:
    assert told(env={"CODEX_SUPERVISOR_LISTEN_PORT": ""}, user="listen_port = 2").listen_port == 2


def test_lists_in_variables_are_json(told: Load) -> None:
    settings = told(env={"CODEX_SUPERVISOR_PROJECT_ROOTS": '["/a", "/b"]'})

    assert settings.project_roots == (Path("/a"), Path("/b"))
    message = mistake(lambda: told(env={"CODEX_SUPERVISOR_PROJECT_ROOTS": "/a"}))
    assert "CODEX_SUPERVISOR_PROJECT_ROOTS in the environment: is not JSON" in message


def test_xdg_directories_are_used_and_relative_ones_ignored(told: Load, files: Path) -> None:
    (files / "codex-supervisor").mkdir()
    (files / "codex-supervisor/config.toml").write_text("listen_port = 6")

    moved = told(env={"XDG_CONFIG_HOME": str(files), "XDG_STATE_HOME": "/var/x"})
    assert moved.listen_port == 6
    assert moved.state_dir == Path("/var/x/codex-supervisor")
    ignored = told(env={"XDG_STATE_HOME": "here"})
    assert ignored.state_dir == files / "home/.local/state/codex-supervisor"


def test_codex_home_follows_codexs_own_variable(told: Load) -> None:
    env = {"CODEX_HOME": "/codex"}

    assert told(env=env).codex_home == Path("/codex")
    assert told(env=env, user='codex_home = "/other"').codex_home == Path("/other")


def test_token_file_follows_state_dir_from_any_source(told: Load) -> None:
    assert told({"state_dir": "/s"}).token_file == Path("/s/token")
    assert told({"state_dir": "/s"}, user='token_file = "/t"').token_file == Path("/t")


def test_a_path_given_by_a_flag_may_be_relative(
    told: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    settings = told({"state_dir": Path("state"), "project_roots": [Path("src")]})
    assert settings.state_dir == tmp_path / "state"
    assert settings.project_roots == (tmp_path / "src",)


def test_a_relative_path_in_a_file_is_refused(told: Load) -> None:
    assert "must be an absolute path" in mistake(lambda: told(user='state_dir = "state"'))


@pytest.mark.parametrize("place", ["config", "user", "system"])
def test_an_unknown_key_names_itself_its_file_and_what_may_be_meant(
    told: Load, files: Path, place: str
) -> None:
    message = mistake(lambda: told(**{place: "listen_prot = 1"}))

    assert message.startswith(f"listen_prot in {files}")
    assert message.endswith("did you mean listen_port?")


def test_an_unknown_key_of_a_group_is_refused(told: Load) -> None:
    message = mistake(lambda: told(user="[restart]\nintensty = 1"))

    assert message.startswith("restart.intensty in ")
    assert message.endswith("did you mean restart.intensity?")


def test_an_unknown_table_is_refused(told: Load) -> None:
    assert mistake(lambda: told(user="[what]\never = 1")).startswith("what in ")


@pytest.mark.parametrize(
    "name", ["LISTEN_PROT", "listen_port", "RESTART__INTENSTY", "RESTART", "_STATE_DIR", ""]
)
def test_an_unknown_variable_with_our_prefix_is_refused_even_if_empty(
    told: Load, name: str
) -> None:
    message = mistake(lambda: told(env={f"CODEX_SUPERVISOR_{name}": ""}))

    assert message.startswith(f"CODEX_SUPERVISOR_{name} in the environment: ")


def test_an_unknown_variable_is_told_its_near_match(told: Load) -> None:
    message = mistake(lambda: told(env={"CODEX_SUPERVISOR_LISTEN_PROT": "1"}))

    assert message.endswith("did you mean CODEX_SUPERVISOR_LISTEN_PORT?")


def test_the_marker_of_an_agents_processes_is_no_setting(told: Load) -> None:
    assert {MARKER_VARIABLE} == RESERVED_VARIABLES
    assert told(env={MARKER_VARIABLE: "x"}) == told()


def test_every_mistake_is_told_at_once_with_its_place(told: Load, files: Path) -> None:
    message = mistake(
        lambda: told(
            {"log_level": "loud"},
            env={"CODEX_SUPERVISOR_RESTART__INTENSITY": "many"},
            system="listen_port = 70000",
        )
    )

    assert "log_level in the command line: " in message
    assert "restart.intensity in the environment: " in message
    assert f"listen_port in {files}/system.toml: " in message


@pytest.mark.parametrize(
    "text",
    [
        "listen_port = -1",
        "listen_port = 65536",
        "listen_host = 'a b'",
        "requests_in_flight = 129",
        "start_timeout_seconds = 0",
        "start_timeout_seconds = inf",
        "start_timeout_seconds = nan",
        "line_limit_bytes = 10",
        "account = 'a.b'",
        "account = ''",
        "runtime = 'moon'",
        "on_shutdown = 'maybe'",
        "codex_version = 'newest'",
        "codex_config = ['model']",
        "codex_config = ['=1']",
        "allowed_origins = ['*']",
        "allowed_origins = ['https://a.example/path']",
        "database_url = 'mysql://x'",
        "state_dir = ''",
        "state_dir = 1",
        'state_dir = "/a\\u0000b"',
        "restart = 1",
        "[listen_port]\nx = 1",
        "[restart]\nbase_seconds = 2\ncap_seconds = 1",
        "spool_backlog_pause_bytes = 4000000\nspool_backlog_stop_bytes = 3000000",
    ],
)
def test_a_value_out_of_bounds_is_refused(told: Load, text: str) -> None:
    assert mistake(lambda: told(user=text))


def test_a_mistake_never_shows_the_value_it_may_be_a_password(told: Load) -> None:
    message = mistake(lambda: told(user="database_url = 'postgresql://me:hunter2@db/x'"))

    assert "database_url" in message
    assert "hunter2" not in message


def test_the_database_url_is_not_in_the_repr(told: Load) -> None:
    settings = told(user="database_url = 'sqlite:////x?password=hunter2'")

    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"listen_port = = 1", "line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "larger than"),
        (b"account = " + b"[" * 100_000, ""),
    ],
    ids=["syntax", "encoding", "size", "depth"],
)
def test_a_file_that_is_not_toml_is_refused_by_name(
    files: Path, content: bytes, words: str
) -> None:
    path = files / "bad.toml"
    path.write_bytes(content)

    message = mistake(lambda: load({}, env={}, config_file=path))
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_deep_table_where_a_value_belongs_is_refused(told: Load) -> None:
    assert mistake(lambda: told(user=f"account.{'a.' * 5000}b = 1"))


def test_the_named_file_must_exist_the_others_need_not(told: Load, files: Path) -> None:
    assert told() == told(user="", system="")
    message = mistake(lambda: load({}, env={}, config_file=files / "none.toml"))
    assert message == f"{files}/none.toml: there is no such file"


def test_a_directory_in_a_files_place_is_refused(files: Path) -> None:
    assert str(files) in mistake(lambda: load({}, env={}, config_file=files))


def test_bounds_hold_however_settings_are_made(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(state_dir=tmp_path, listen_port=-1)
    assert Settings(state_dir=tmp_path).token_file == tmp_path / "token"


def test_settings_made_directly_read_no_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_SUPERVISOR_LISTEN_PORT", "1")

    assert Settings().listen_port == 7878


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)

    with pytest.raises(ValidationError):
        settings.listen_port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.restart.intensity = 1  # type: ignore[misc]


def test_children_get_the_environment_without_our_variables() -> None:
    env = {"PATH": "/bin", "CODEX_SUPERVISOR_LOG_LEVEL": "debug", MARKER_VARIABLE: "x"}

    assert environment(env) == {"PATH": "/bin"}


def test_the_childrens_environment_is_a_copy() -> None:
    env = {"PATH": "/bin"}

    environment(env)["PATH"] = "/other"
    assert env == {"PATH": "/bin"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted(Settings.model_fields)) | st.text()


def settled(flags: Mapping[str, object], env: Mapping[str, str]) -> ErrorCode | Settings:
    try:
        return load(flags, env={"HOME": "/n", **env}, system_file=Path("/nowhere/config.toml"))
    except SupervisorError as error:
        return error.code


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_any_flags_give_settings_or_one_kind_of_error(flags: dict[str, object]) -> None:
    outcome = settled(flags, {})

    assert isinstance(outcome, Settings) or outcome is ErrorCode.SETTINGS_INVALID


VARIABLES = st.sampled_from([name.upper() for name in Settings.model_fields]) | st.text()


@given(st.dictionaries(VARIABLES.map("CODEX_SUPERVISOR_".__add__), st.text(), max_size=4))
def test_any_variables_give_settings_or_one_kind_of_error(env: dict[str, str]) -> None:
    outcome = settled({}, env)

    assert isinstance(outcome, Settings) or outcome is ErrorCode.SETTINGS_INVALID
