"""The schema the migrations make, and how it is used."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.event import listens_for

from supervisor.clock import SystemClock
from supervisor.stores import read
from supervisor.stores.migrations import REVISIONS
from supervisor.stores.sql import SqlStore
from supervisor.stores.tables import METADATA
from tests.contract.stored import A

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def opened_at(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}", clock=SystemClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    made = opened_at(path)
    await made.open()
    yield made
    await made.close()


async def test_migrations_make_what_the_tables_describe(store: SqlStore, path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, METADATA)
    engine.dispose()

    assert differences == []


async def test_migrations_make_the_partial_indexes_described(store: SqlStore, path: Path) -> None:
    described = {
        index.name: str(index.dialect_options["sqlite"]["where"])
        for table in METADATA.tables.values()
        for index in table.indexes
        if index.dialect_options["sqlite"]["where"] is not None
    }
    with closing(sqlite3.connect(path)) as raw:
        made = dict(
            raw.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
            )
        )

    assert {name: sql.split(" WHERE ")[1] for name, sql in made.items()} == described


async def test_no_query_of_the_state_reads_a_whole_table(store: SqlStore, path: Path) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []
    engine = create_engine(f"sqlite:///{path}")

    @listens_for(engine, "before_cursor_execute")
    def _(_c: object, _cursor: object, sql: str, values: tuple[object, ...], *_: object) -> None:
        asked.append((sql, values))

    with engine.connect() as connection:
        read.project_state(connection, A)
        read.intent_by_key(connection, A, "local", "k")
        read.turn_owner(connection, A, "u1")
        read.turns(connection, A, "t1", 10)
        read.audit(connection, A, 0, 10, "t1")
    engine.dispose()
    with closing(sqlite3.connect(path)) as raw:
        plans = [
            str(raw.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
            for sql, values in asked
        ]

    assert [plan for plan in plans if "SCAN" in plan] == []
    for index in (
        "turns_open",
        "items_open",
        "intents_pending",
        "server_requests_open",
        "intents_by_key",
    ):
        assert [plan for plan in plans if f"USING INDEX {index} " in plan] != [], index


def test_every_revision_is_named_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", "supervisor.stores:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config).walk_revisions()

    assert tuple(script.revision for script in scripts)[::-1] == REVISIONS
