"""`doctor`: looks at everything the supervisor needs, and says what to do about what is missing."""

from typing import TYPE_CHECKING

import typer

from supervisor.cli import output
from supervisor.cli.checks import Check, Finding, Verdict, fail
from supervisor.cli.invocation import Invocation, with_options
from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    from supervisor.settings import Settings

FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(with_options(doctor))


def doctor(inv: Invocation) -> None:
    """Check this machine, Codex, the state directory and the supervisor."""
    try:
        settings = inv.settings()
    except SupervisorError as error:
        found = {"settings": fail(error.message, error.hint)}
    else:
        found = {name: examined(check, settings) for name, check in checks_for(settings).items()}
    good = all(one.verdict is not Verdict.FAIL for one in found.values())
    if inv.json:
        shown = [
            {"check": name, "verdict": one.verdict.value, "says": one.says, "hint": one.hint}
            for name, one in found.items()
        ]
        output.document({"ok": good, "checks": shown})
    else:
        _show(found)
    if not good:
        raise typer.Exit(FAILED)


def every_check() -> dict[str, Check]:
    """All checks by name, in the order they are made."""
    from supervisor.cli.checks import codex, containers, machine, service, state

    return {
        **machine.CHECKS,
        **codex.CHECKS,
        **containers.CHECKS,
        **state.CHECKS,
        **service.CHECKS,
    }


def checks_for(settings: "Settings") -> dict[str, Check]:
    """Those that say something about this supervisor: no person's login goes into a container."""
    from supervisor.cli.checks import codex, containers

    unused = containers.CHECKS if settings.runtime == "host" else codex.PERSONS_OWN
    return {name: check for name, check in every_check().items() if name not in unused}


def examined(check: Check, settings: "Settings") -> Finding:
    """What a check found; that it could not look is a finding too."""
    try:
        return check(settings)
    except SupervisorError as error:
        return fail(error.message, error.hint)
    except Exception as error:  # noqa: BLE001  # the other checks are wanted all the same
        return fail(f"it could not be checked: {type(error).__name__}: {error}", "Look yourself.")


def _show(found: dict[str, Finding]) -> None:
    from rich.text import Text

    styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    console = output.console()
    width = max(map(len, found))
    for name, one in found.items():
        verdict = Text(f"{one.verdict.value:4}", styles[one.verdict])
        console.print(verdict, Text(f"{name:{width}}  {output.plain(one.says)}"))
        if one.hint is not None:
            console.print(Text(f"{'':{width + 7}}{output.plain(one.hint)}", "dim"))
