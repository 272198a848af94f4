"""What Codex is pinned to in a container: the two files of /etc/codex. Pure."""

from supervisor.policy.reach import MODEL_PORT
from supervisor.settings import Settings


def requirements_toml(settings: Settings) -> str:  # noqa: ARG001
    """What neither a client nor the agent can undo."""
    return ""


def config_toml(settings: Settings) -> str:  # noqa: ARG001
    """The defaults that everything else stands above."""
    return f"""model_provider = "supervisor"
[model_providers.supervisor]
name = "supervisor"
base_url = "http://127.0.0.1:{MODEL_PORT}/v1"
wire_api = "responses"
requires_openai_auth = false
"""
