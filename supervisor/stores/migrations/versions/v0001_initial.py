"""The first tables: see supervisor.stores.tables for what they hold."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table and index."""
    _projects()
    _conversations()
    _requests()
    _audit()


def _projects() -> None:
    op.create_table(
        "projects",
        _key("project", sa.Text()),
        _must("path", sa.Text()),
        _must("account", sa.Text()),
        _must("trusted", sa.Boolean()),
        _must("desired", sa.Text()),
        _must("created_at", sa.Float()),
        _maybe("quarantine", sa.Text()),
    )
    op.create_table(
        "checkpoints",
        _key("project", sa.Text()),
        _must("epoch", sa.Text()),
        _must("next_n", sa.BigInteger()),
        _must("generation", sa.BigInteger()),
        _must("offset", sa.BigInteger()),
        _must("window_n", sa.BigInteger()),
        _must("window_generation", sa.BigInteger()),
        _must("window_offset", sa.BigInteger()),
        _must("audit_seq", sa.BigInteger()),
        _must("audit_hash", sa.Text()),
        _must("host", sa.Text()),
        _must("boot_id", sa.Text()),
    )
    op.create_table(
        "generations",
        _key("project", sa.Text()),
        _key("generation", sa.BigInteger()),
        _must("state", sa.Text()),
        _must("runtime", sa.Text()),
        _must("marker", sa.Text()),
        _must("first_n", sa.BigInteger()),
        _must("started_at", sa.Float()),
        _must("trusted", sa.Boolean()),
        _maybe("pid", sa.BigInteger()),
        _maybe("pid_start_ticks", sa.BigInteger()),
        _maybe("boot_id", sa.Text()),
        _maybe("final_size", sa.BigInteger()),
        _maybe("exit_kind", sa.Text()),
        _maybe("exit_detail", sa.Text()),
        _maybe("ended_at", sa.Float()),
    )
    _index("generations_live", "generations", "project", where="state <> 'ended'")
    op.create_table(
        "events",
        _key("project", sa.Text()),
        _key("n", sa.BigInteger()),
        _must("generation", sa.BigInteger()),
        _must("offset", sa.BigInteger()),
        _maybe("thread_id", sa.Text()),
        _must("message", sa.LargeBinary()),
        _must("at", sa.Float()),
    )


def _conversations() -> None:
    op.create_table(
        "threads",
        _key("project", sa.Text()),
        _key("thread_id", sa.Text()),
        _must("account", sa.Text()),
        _must("status", sa.Text()),
        _must("cwd", sa.Text()),
        _maybe("name", sa.Text()),
        _must("settings", sa.LargeBinary()),
        _must("has_turns", sa.Boolean()),
        _must("created_at", sa.Float()),
        _must("updated_at", sa.Float()),
    )
    op.create_table(
        "turns",
        _key("project", sa.Text()),
        _key("thread_id", sa.Text()),
        _key("turn_id", sa.Text()),
        _must("state", sa.Text()),
        _must("generation", sa.BigInteger()),
        _maybe("request_id", sa.Text()),
        _maybe("error", sa.LargeBinary()),
        _must("started_n", sa.BigInteger()),
        _maybe("ended_n", sa.BigInteger()),
        _must("started_at", sa.Float()),
        _maybe("ended_at", sa.Float()),
    )
    _index("turns_by_id", "turns", "project", "turn_id")
    _index("turns_by_start", "turns", "project", "thread_id", "started_n")
    _index("turns_open", "turns", "project", where="state = 'in_progress'")
    op.create_table(
        "items",
        _key("project", sa.Text()),
        _key("thread_id", sa.Text()),
        _key("turn_id", sa.Text()),
        _key("item_id", sa.Text()),
        _must("kind", sa.Text()),
        _must("state", sa.Text()),
        _must("body", sa.LargeBinary()),
        _must("started_n", sa.BigInteger()),
        _maybe("completed_n", sa.BigInteger()),
        _maybe("partial_text", sa.Text()),
        _maybe("partial_n", sa.BigInteger()),
    )
    _index("items_open", "items", "project", where="state = 'open'")


def _requests() -> None:
    op.create_table(
        "intents",
        _key("project", sa.Text()),
        _key("request_id", sa.Text()),
        _must("method", sa.Text()),
        _maybe("thread_id", sa.Text()),
        _maybe("turn_id", sa.Text()),
        _maybe("idempotency_key", sa.Text()),
        _must("params_hash", sa.Text()),
        _must("params", sa.LargeBinary()),
        _must("state", sa.Text()),
        _maybe("outcome", sa.LargeBinary()),
        _must("account", sa.Text()),
        _must("principal", sa.Text()),
        _must("source", sa.Text()),
        _must("client", sa.Text()),
        _must("n", sa.BigInteger()),
        _must("created_at", sa.Float()),
        _maybe("settled_at", sa.Float()),
    )
    _index(
        "intents_by_key",
        "intents",
        "project",
        "account",
        "idempotency_key",
        where="idempotency_key IS NOT NULL",
    )
    _index("intents_pending", "intents", "project", where="state = 'pending'")
    op.create_table(
        "server_requests",
        _key("project", sa.Text()),
        _key("approval_id", sa.Text()),
        _must("generation", sa.BigInteger()),
        _must("request_id", sa.LargeBinary()),
        _must("method", sa.Text()),
        _maybe("thread_id", sa.Text()),
        _maybe("turn_id", sa.Text()),
        _maybe("item_id", sa.Text()),
        _must("params", sa.LargeBinary()),
        _must("state", sa.Text()),
        _must("asked_n", sa.BigInteger()),
        _must("asked_at", sa.Float()),
        _maybe("answer", sa.LargeBinary()),
        _maybe("answered_by", sa.Text()),
        _maybe("settled_at", sa.Float()),
    )
    _index("server_requests_open", "server_requests", "project", where="settled_at IS NULL")


def _audit() -> None:
    op.create_table(
        "audit",
        _key("project", sa.Text()),
        _key("seq", sa.BigInteger()),
        _must("at", sa.Float()),
        _must("kind", sa.Text()),
        _must("phase", sa.Text()),
        _must("account", sa.Text()),
        _must("principal", sa.Text()),
        _must("source", sa.Text()),
        _must("client", sa.Text()),
        _must("host", sa.Text()),
        _must("generation", sa.BigInteger()),
        _must("n", sa.BigInteger()),
        _maybe("thread_id", sa.Text()),
        _maybe("turn_id", sa.Text()),
        _maybe("item_id", sa.Text()),
        _must("detail", sa.LargeBinary()),
        _must("hash", sa.Text()),
    )
    _index("audit_by_thread", "audit", "project", "thread_id", "seq")


def _key(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False, nullable=False)


def _must(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _maybe(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


def _index(name: str, table: str, *columns: str, where: str | None = None) -> None:
    only = None if where is None else sa.text(where)
    op.create_index(name, table, list(columns), sqlite_where=only, postgresql_where=only)
