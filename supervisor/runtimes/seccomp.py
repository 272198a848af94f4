"""The filter of system calls: podman's own, without what belongs to the machine.

Podman allows what a namespace keeps apart. Some of it none does: the kernel's key rings belong to a
uid, so that a container reads the tickets of the host's user and shares a ring with its sibling;
vsock goes to the hypervisor, and to whoever listens on the host, whatever the network. Codex needs
none of it. The rest of podman's profile stays: that is where Codex's own sandbox gets its user
namespaces, and where an operator says otherwise (`seccomp_profile` of containers.conf).
"""

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from supervisor.errors import ErrorCode, SupervisorError

REFUSED: Final = (
    *("keyctl", "add_key", "request_key"),
    # The gate of 32 bits keeps the family of a socket where no filter can look.
    "socketcall",
    # What a ring does in one's place, no filter sees.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("bpf", "fanotify_init", "perf_event_open", "userfaultfd"),
)
_UNIX, _INET, _INET6, _NETLINK, _VSOCK = 1, 2, 10, 16, 40
_FAMILIES: Final = (_UNIX, _INET, _INET6)
_AUDIT: Final = 9
"""The protocol of netlink that podman refuses as well."""
_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def tightened(profile: Mapping[str, Any]) -> dict[str, Any]:
    """`profile`, an OCI seccomp profile as podman has them, with those calls refused.

    Raises ValueError if it is no profile.
    """
    rules = profile.get("syscalls", [])
    if not isinstance(rules, list) or not isinstance(profile.get("defaultAction"), str):
        raise ValueError("it is no seccomp profile")
    known = {*REFUSED, "socket"}
    kept = [rule for rule in (_without(rule, known) for rule in rules) if rule["names"]]
    # Not the errno of the default: a rule that says the same is left out by the OCI runtime, and
    # libseccomp, to which socketcall is another name of socket, would let it through for the next.
    usual = profile.get("defaultErrnoRet", errno.EPERM)
    refusal = errno.EPERM if usual != errno.EPERM else errno.ENOSYS
    refused = _rule(REFUSED, _ERRNO, errno=refusal)
    return {**profile, "syscalls": [*kept, refused, *_sockets(profile["defaultAction"])]}


def tightened_file(profile: Path) -> bytes:
    """That file in its tightened form. Blocks. `agent_start_failed`."""
    try:
        return msgspec.json.encode(tightened(msgspec.json.decode(profile.read_bytes())))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise SupervisorError(
            ErrorCode.AGENT_START_FAILED,
            f"podman's seccomp profile {profile} cannot be used: {error}",
            hint="Mend seccomp_profile in containers.conf, or reinstall containers-common.",
        ) from error


def _sockets(default: str) -> list[dict[str, Any]]:
    """Which families there are; of the others, where all is allowed, vsock alone is kept out."""
    if default == _ALLOW:
        return [_rule(["socket"], _ERRNO, [_family(_VSOCK)], errno=errno.EAFNOSUPPORT)]
    families = [_rule(["socket"], _ALLOW, [_family(family)]) for family in _FAMILIES]
    no_audit = {"index": 2, "value": _AUDIT, "valueTwo": 0, "op": "SCMP_CMP_NE"}
    netlink = _rule(["socket"], _ALLOW, [_family(_NETLINK), no_audit])
    others = _rule(["socket"], _ERRNO, [_family(_NETLINK, "SCMP_CMP_GT")], errno=errno.EAFNOSUPPORT)
    return [*families, netlink, others]


def _family(number: int, compared: str = "SCMP_CMP_EQ") -> dict[str, Any]:
    return {"index": 0, "value": number, "valueTwo": 0, "op": compared}


def _rule(
    names: Iterable[str], action: str, args: Iterable[object] = (), *, errno: int | None = None
) -> dict[str, Any]:
    refusal = {} if errno is None else {"errnoRet": errno}
    return {"names": [*names], "action": action, "args": [*args], **refusal}


def _without(rule: dict[str, Any], names: set[str]) -> dict[str, Any]:
    given = [rule["name"]] if "name" in rule else rule["names"]
    return {**rule, "names": [name for name in given if name not in names]}
