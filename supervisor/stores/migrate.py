"""Bringing a database's schema up to date, inside the transaction of its caller."""

from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing. Half of them is never left behind."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "supervisor.stores:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
