"""Every attempt is run once for each way into a container; each test looks at its own."""

import pytest

from tests.e2e.escape import sieges
from tests.e2e.escape.sieges import Siege


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
