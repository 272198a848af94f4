"""The tables and the statements, for the engine there is and the one to come."""

import msgspec
import pytest
from sqlalchemy import Dialect, Text
from sqlalchemy.engine import make_url
from sqlalchemy.schema import CreateIndex, CreateTable

from supervisor.ports.store import ItemRow
from supervisor.stores import write
from supervisor.stores.tables import INDEXED_TEXT, METADATA, TABLE_OF

POSTGRESQL = make_url("postgresql+asyncpg://").get_dialect()()
SQLITE = make_url("sqlite://").get_dialect()()
DIALECTS = [pytest.param(SQLITE, id="sqlite"), pytest.param(POSTGRESQL, id="postgresql")]


@pytest.mark.parametrize("row_type", TABLE_OF, ids=lambda t: t.__name__)
def test_columns_are_the_fields_of_the_row(row_type: type[msgspec.Struct]) -> None:
    table = TABLE_OF[row_type]
    kinds = {str: "str", int: "int", float: "float", bool: "bool", bytes: "bytes"}
    described = []
    for field in msgspec.structs.fields(row_type):
        names = [
            kinds.get(getattr(part, "__supertype__", part), "None")
            for part in getattr(field.type, "__args__", (field.type,))
        ]
        described.append((field.encode_name, names[0], "None" in names))

    assert described == [
        (column.name, column.type.python_type.__name__, column.nullable) for column in table.columns
    ]


def test_every_table_belongs_to_a_row_type() -> None:
    assert set(TABLE_OF.values()) == set(METADATA.tables.values())


def test_every_key_begins_with_the_project() -> None:
    for table in METADATA.tables.values():
        assert next(column.name for column in table.primary_key.columns) == "project"
        for index in table.indexes:
            assert next(column.name for column in index.columns) == "project"


def test_every_text_in_a_key_is_bounded() -> None:
    for table in METADATA.tables.values():
        texts = [c.name for c in table.primary_key.columns if isinstance(c.type, Text)]
        assert set(texts) <= INDEXED_TEXT


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tables_and_indexes_are_made_by_every_engine(dialect: Dialect) -> None:
    for table in METADATA.tables.values():
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            said = str(CreateIndex(index).compile(dialect=dialect))
            assert (" WHERE " in said) == (index.dialect_options["sqlite"]["where"] is not None)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("row_type", TABLE_OF, ids=lambda t: t.__name__)
@pytest.mark.parametrize("size", write.CHUNKS)
def test_an_upsert_replaces_all_but_the_key(
    dialect: Dialect, row_type: type[msgspec.Struct], size: int
) -> None:
    table = TABLE_OF[row_type]
    key = [column.name for column in table.primary_key.columns]
    said = write._upsert_sql(dialect, table, size)
    inserted, _, replaced = said.partition(" DO UPDATE SET ")

    assert f"ON CONFLICT ({', '.join(key)})" in inserted
    assert replaced.count("excluded.") == len(table.columns) - len(key)
    assert inserted.count("?") + inserted.count("$") == size * len(table.columns)


def test_an_upsert_stays_within_the_variables_of_an_engine() -> None:
    widest = max(len(table.columns) for table in METADATA.tables.values())
    assert max(write.CHUNKS) * widest < 32_766


def test_the_positions_of_variables_follow_rows_then_columns() -> None:
    said = write._upsert_sql(POSTGRESQL, TABLE_OF[ItemRow], 8)
    places = [said.index(f"${n}::") for n in range(1, 8 * 11 + 1)]
    assert places == sorted(places)
