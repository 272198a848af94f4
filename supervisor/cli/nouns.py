"""Groups of commands about one noun: `threads`, `audit`. Without a verb, `list` is meant."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from supervisor.cli.invocation import Invocation, with_options

Project = Annotated[
    str | None,
    typer.Argument(
        metavar="PROJECT",
        help="Id or directory; the working directory if left out.",
        show_default=False,
    ),
]
"""The project a command is about, as `calling.project_of` takes it."""
ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project",
        "-p",
        help="Id or directory; the working directory if left out.",
        show_default=False,
    ),
]
"""The same, where the arguments name something else."""

_HELP = ("--help", "-h")


class ListByDefault(TyperGroup):
    """`threads --limit 3` is `threads list --limit 3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's, with the verb put in where none of ours is given."""
        if not any(arg in self.commands or arg in _HELP for arg in args):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def noun(app: typer.Typer, name: str, doc: str) -> typer.Typer:
    """A new group of commands on `app`; it takes the shared options before the verb too."""
    made = typer.Typer(cls=ListByDefault, help=doc, no_args_is_help=False)
    made.callback()(with_options(_nothing))
    app.add_typer(made, name=name)
    return made


def _nothing(inv: Invocation) -> None:
    """What stands before the verb is read by `with_options`."""
