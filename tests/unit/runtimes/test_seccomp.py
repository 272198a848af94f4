"""Podman's filter of system calls, without what belongs to the machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.seccomp import REFUSED, tightened, tightened_file

ALLOW, REFUSE = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
STRICT: dict[str, Any] = {
    "defaultAction": REFUSE,
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["keyctl", "read", "socketcall", "write"], "action": ALLOW, "args": []},
        {"names": ["socket"], "action": ALLOW, "args": [], "includes": {"caps": ["CAP_X"]}},
        {"name": "io_uring_setup", "action": ALLOW},
        {"names": ["unshare"], "action": ALLOW, "args": []},
    ],
}


def rules(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """As podman may have it too: one name of its own instead of a list."""
    every = profile["syscalls"]
    return [rule for rule in every if name in rule.get("names", [rule.get("name")])]


def test_what_belongs_to_the_machine_is_refused_and_the_rest_is_left() -> None:
    made = tightened(STRICT)
    for name in REFUSED:
        (rule,) = rules(made, name)
        assert (rule["action"], rule["errnoRet"], rule["args"]) == (REFUSE, 1, [])
    assert made["syscalls"][0]["names"] == ["read", "write"]
    assert rules(made, "unshare") == rules(STRICT, "unshare")
    assert {key: made[key] for key in made if key != "syscalls"} == {
        key: STRICT[key] for key in STRICT if key != "syscalls"
    }


def test_sockets_are_of_the_families_that_a_namespace_keeps_apart() -> None:
    allowed = [
        rule["args"] for rule in rules(tightened(STRICT), "socket") if rule["action"] == ALLOW
    ]
    assert [args[0]["value"] for args in allowed] == [1, 2, 10, 16]
    assert all(args[0]["index"] == 0 and args[0]["op"] == "SCMP_CMP_EQ" for args in allowed)
    assert allowed[-1][1]["value"] == 9, "netlink, but not of the audit"


def test_where_all_is_allowed_those_are_refused_all_the_same() -> None:
    made = tightened({"defaultAction": ALLOW, "syscalls": []})
    assert rules(made, "keyctl")[0]["action"] == REFUSE
    (vsock,) = rules(made, "socket")
    assert (vsock["action"], vsock["args"][0]["value"]) == (REFUSE, 40)


@pytest.mark.parametrize(("usual", "told"), [(38, 1), (1, 38), (None, 38)])
def test_a_refusal_is_never_the_default_which_would_be_left_out(
    usual: int | None, told: int
) -> None:
    profile = {"defaultAction": REFUSE, "syscalls": []}
    made = tightened(profile if usual is None else {**profile, "defaultErrnoRet": usual})
    assert rules(made, "socketcall")[0]["errnoRet"] == told


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"defaultAction": 1}', '{"defaultAction":"x","syscalls":[{}]}']
)
def test_what_is_no_profile_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "seccomp.json"
    file.write_text(content)
    with pytest.raises(SupervisorError) as refused:
        tightened_file(file)
    assert refused.value.code is ErrorCode.AGENT_START_FAILED


def test_a_file_is_tightened(tmp_path: Path) -> None:
    file = tmp_path / "seccomp.json"
    file.write_text(json.dumps(STRICT))
    assert json.loads(tightened_file(file)) == tightened(STRICT)
    with pytest.raises(SupervisorError):
        tightened_file(tmp_path / "none")
