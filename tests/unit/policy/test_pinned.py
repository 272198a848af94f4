"""The files of /etc/codex and the `-c` beside them: what each setting makes of them."""

import tomllib
from typing import Any

import pytest

from supervisor.policy.pinned import (
    PROVIDER,
    config_toml,
    launch_overrides,
    provider_name,
    requirements_toml,
)
from supervisor.settings import Settings

WALLED = ["read-only", "workspace-write"]
BARE = [*WALLED, "danger-full-access"]


def told(**podman: Any) -> Settings:
    return Settings(podman=podman)


def requirements(settings: Settings, **how: Any) -> dict[str, Any]:
    return tomllib.loads(requirements_toml(settings, **how))


def config(settings: Settings, **how: Any) -> dict[str, Any]:
    return tomllib.loads(config_toml(settings, **how))


@pytest.mark.parametrize("wish", ["require", "prefer"])
def test_with_an_inner_wall_no_thread_goes_without_it(wish: str) -> None:
    settings = told(inner_wall=wish)
    assert requirements(settings)["allowed_sandbox_modes"] == WALLED
    assert "sandbox_mode" not in config(settings)


@pytest.mark.parametrize(
    ("wish", "walled"), [("off", True), ("off", False), ("prefer", False)], ids=str
)
def test_without_an_inner_wall_threads_are_without_it_unless_they_ask(
    wish: str, walled: bool
) -> None:
    settings = told(inner_wall=wish)
    assert requirements(settings, walled=walled)["allowed_sandbox_modes"] == BARE
    assert config(settings, walled=walled)["sandbox_mode"] == "danger-full-access"


def test_the_model_is_reached_by_the_listener_and_by_nothing_else() -> None:
    pinned = requirements(told())
    assert pinned["model_provider"] == PROVIDER
    assert list(pinned["model_providers"]) == [PROVIDER]
    provider = pinned["model_providers"][PROVIDER]
    assert provider["base_url"] == "http://127.0.0.1:8181/v1"
    assert provider["wire_api"] == "responses"
    assert provider["requires_openai_auth"] is False
    assert provider["supports_websockets"] is False
    # Any of these would put a secret into the container, or ask it for one.
    assert not {"env_key", "experimental_bearer_token", "auth", "http_headers"} & set(provider)


def test_a_value_that_is_not_allowed_gives_way_to_the_strictest() -> None:
    pinned = requirements(told())
    assert pinned["allowed_approval_policies"][0] == "untrusted"
    assert pinned["allowed_sandbox_modes"][0] == "read-only"
    assert pinned["allowed_approvals_reviewers"] == ["user"]
    assert pinned["allowed_web_search_modes"] == ["cached"]


def test_the_defaults_ask_for_nothing_that_is_not_allowed() -> None:
    for settings in (told(), told(inner_wall="off")):
        pinned, defaults = requirements(settings), config(settings)
        for key in set(pinned) & set(defaults):
            assert pinned[key] == defaults[key]
        assert defaults.get("sandbox_mode", "read-only") in pinned["allowed_sandbox_modes"]


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "OpenAI"),
        ("https://eu.api.openai.com/v1", "OpenAI"),
        ("http://127.0.0.1:4000/v1", "codex-supervisor"),
        ("https://api.openai.com.example/v1", "codex-supervisor"),
        ("https://not-api.openai.com.example", "codex-supervisor"),
    ],
)
def test_only_openai_is_called_so(base_url: str, name: str) -> None:
    assert provider_name(base_url) == name
    settings = Settings.model_validate({"proxy": {"base_url": base_url}})
    assert requirements(settings)["model_providers"][PROVIDER]["name"] == name


def test_commands_write_where_the_operator_lets_them_and_have_no_network() -> None:
    mounts = [
        {"source": "/srv/cache", "destination": '/srv/a "b" \x7f', "writable": True},
        {"source": "/srv/docs", "destination": "/srv/docs"},
    ]
    overrides = launch_overrides(told(extra_mounts=mounts))
    values = tomllib.loads("\n".join(overrides))
    assert values == {
        "sandbox_workspace_write": {"network_access": False, "writable_roots": ['/srv/a "b" \x7f']}
    }
