"""Every attempt is run once for each way into a container; each test looks at its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.escape import sieges
from tests.e2e.escape.sieges import Siege
from tests.leftovers import nothing_left


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test of the whole run, from the first of these on."""
    with nothing_left(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session")
def sieged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Siege]:
    """By way."""
    found = sieges.by_the_model(tmp_path_factory.mktemp("model"))
    return {sieges.BESIDE: sieges.beside_codex(tmp_path_factory.mktemp("beside")), **found}


@pytest.fixture(scope="session")
def in_a_plain_one(tmp_path_factory: pytest.TempPathFactory) -> Siege:
    return sieges.in_a_plain_one(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def in_a_privileged_one(tmp_path_factory: pytest.TempPathFactory) -> Siege:
    return sieges.in_a_privileged_one(tmp_path_factory.mktemp("privileged"))
