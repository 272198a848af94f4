"""What the image is made of names no architecture: built on arm64, it is an arm64 image."""

import re
from pathlib import Path

import pytest

IMAGE = Path(__file__).parents[2] / "images" / "agent"
NAMES = re.compile(r"amd64|x86|arm64|aarch64|--platform|--arch", re.IGNORECASE)


@pytest.mark.parametrize("name", ["Containerfile", "build"])
def test_no_architecture_is_named(name: str) -> None:
    text = (IMAGE / name).read_text()
    assert not NAMES.findall(text)


def test_a_base_made_here_is_of_this_machine_and_called_so() -> None:
    """A store that is shared keeps the bases of two architectures apart."""
    assert '"$(uname -m)"' in (IMAGE / "build").read_text()


def test_the_base_is_an_argument_and_both_targets_are_built_on_it() -> None:
    lines = (IMAGE / "Containerfile").read_text().splitlines()
    found = [line for line in lines if line.startswith(("ARG ", "FROM "))]
    assert re.fullmatch(r"ARG BASE=\S+", found[0])
    assert found[1:] == ["FROM ${BASE} AS slim", "FROM slim AS full"]
