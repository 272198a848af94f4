"""What a prompt looks like once other text has come below it."""

import pytest

from supervisor.cli.pieces import Piece
from supervisor.cli.terminal import Terminal


def test_a_prompt_is_repeated_below_other_text_in_the_words_for_that(
    capfd: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal()
    terminal.ask("[y]es > ", again="(to run: evil)\n[y]es > ")
    terminal.show([Piece("codex wants to run\n$ ls")])

    assert capfd.readouterr().out == "[y]es > \ncodex wants to run\n$ ls\n(to run: evil)\n[y]es > "
