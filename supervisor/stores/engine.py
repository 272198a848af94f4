"""The seam between the statements and the engine that runs them."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


class Engine(Protocol):
    """Runs functions over a SQLAlchemy connection, each in one transaction, off the event loop.

    The functions are the same for every engine: SQLite runs them in threads of its own, an
    asynchronous driver would through `AsyncConnection.run_sync`.
    """

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Run it in a writing transaction, one at a time; durable when this returns."""

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run it in a reading transaction, which sees one state of the database throughout."""

    async def close(self) -> None:
        """Wait for what is running, and let go of every connection."""
