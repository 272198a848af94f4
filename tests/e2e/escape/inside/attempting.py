"""What an attempt to escape is, and how all of them are run.

Everything in this folder runs inside a container, as the one who wants out of it, with nothing but
Python's own library. The attacker is told all there is to know (`Facts`): where things are on the
host, which ports listen, what the secrets look like. An attempt tries for real. It returns its
proof if it got through; an OSError that a wall gives, or `RefusedError`, means that the wall held;
anything else means that the attempt itself is broken, which is never taken for a wall.
"""

import contextlib
import errno
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""What the attacker was told; `tests.e2e.escape.ground` has the keys."""

HELD, ESCAPED, BROKEN = "held", "ESCAPED", "error"
PLAIN, PRIVILEGED = "plain", "privileged"
PATIENCE = 20.0
"""Seconds one attempt may take."""

WALLS = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSYS, errno.ENODEV),
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EADDRNOTAVAIL),
        *(errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.ENXIO),
    }
)
"""The kernel refuses, or there is nothing there. EINVAL and EFAULT are mistakes of the attempt."""


class RefusedError(Exception):
    """A wall held, and this is how."""


@dataclass(frozen=True)
class Attempt:
    """One way out."""

    run: Callable[[Facts], str]
    control: str
    """The kind of container without walls in which it gets through; "" if none shows it."""
    unshown: str
    """Why none does."""
    walls: frozenset[int]
    """What else a wall says to it."""

    @property
    def name(self) -> str:
        return self.run.__name__


CATALOGUE: dict[str, Attempt] = {}


def attempt(
    control: str = "", *, unshown: str = "", walls: Iterable[int] = ()
) -> Callable[[Callable[[Facts], str]], Callable[[Facts], str]]:
    """Enter a function into the catalogue. It must get through in `control`, or say why not."""
    if bool(control) == bool(unshown):
        raise ValueError("name the container that it gets through in, or why there is none")

    def enter(run: Callable[[Facts], str]) -> Callable[[Facts], str]:
        if run.__name__ in CATALOGUE:
            raise ValueError(f"there are two attempts of the name {run.__name__}")
        CATALOGUE[run.__name__] = Attempt(run, control, unshown, frozenset(walls))
        return run

    return enter


def first_through(ways: Iterable[tuple[str, Callable[[], str]]], walls: Iterable[int] = ()) -> str:
    """The proof of the first way that works; else `RefusedError` with what each ran into."""
    reasons: dict[str, int] = {}
    for name, way in ways:
        try:
            return f"{name}: {way()}"
        except RefusedError as refused:
            reason = str(refused)
        except OSError as error:
            if error.errno not in WALLS | frozenset(walls):
                raise
            reason = errno.errorcode[error.errno]
        reasons[reason] = reasons.get(reason, 0) + 1
    if not reasons:
        raise LookupError("there was nothing to try")
    raise RefusedError(", ".join(f"{reason} x{count}" for reason, count in reasons.items()))


def run_all(facts: Facts, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Run the attempts one by one, each in a process of its own."""
    return {name: _contained(CATALOGUE[name], facts) for name in names}


def _contained(one: Attempt, facts: Facts) -> dict[str, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reading)
        os.write(writing, json.dumps(_outcome(one, facts)).encode())
        os._exit(0)
    os.close(writing)
    said = _read(reading)
    os.close(reading)
    with contextlib.suppress(OSError):
        # It may have had no time to make a group, and none of it may be left.
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if said is None:
        return {"outcome": BROKEN, "why": f"no end within {PATIENCE:g} s"}
    if not said and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS:
        return {"outcome": HELD, "why": "a filter of system calls ended it"}
    if not said:
        return {"outcome": BROKEN, "why": f"it ended without a word, with {status}"}
    outcome: dict[str, str] = json.loads(said)
    return outcome


def _read(reading: int) -> bytes | None:
    """What a child writes; None if it writes nothing for too long."""
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    if not ready:
        return None
    return os.read(reading, 1 << 16)


def _outcome(one: Attempt, facts: Facts) -> dict[str, str]:
    try:
        return {"outcome": ESCAPED, "why": one.run(facts)[:2000]}
    except RefusedError as refused:
        return {"outcome": HELD, "why": str(refused)[:2000]}
    except OSError as error:
        if error.errno in WALLS | one.walls:
            return {
                "outcome": HELD,
                "why": f"{errno.errorcode[error.errno]} {error.filename or ''}",
            }
        return {"outcome": BROKEN, "why": traceback.format_exc()[-2000:]}
    except BaseException:  # noqa: BLE001  whatever it is, the attempt is broken
        return {"outcome": BROKEN, "why": traceback.format_exc()[-2000:]}


def main(argv: list[str]) -> None:
    """`FACTS RESULTS [NAME...]`: run the attempts of those names, or all."""
    facts = json.loads(Path(argv[0]).read_text())
    results = Path(argv[1])
    found = run_all(facts, argv[2:] or CATALOGUE)
    half = results.with_suffix(".half")
    half.write_text(json.dumps(found, indent=1))
    half.rename(results)
    print(len(found), "attempts were made")
    sys.stdout.flush()
