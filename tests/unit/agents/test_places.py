"""Where a thread may work: a directory inside the project, whatever the name says."""

from pathlib import Path

import pytest

from supervisor.agents.places import check_containable, thread_params
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.policy.places import ProjectPaths


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "p"
    (made / "sub").mkdir(parents=True)
    (made / "file").write_text("")
    (made / "out").symlink_to(tmp_path)
    (made / "loop").symlink_to(made / "loop")
    return made


@pytest.mark.parametrize(
    "cwd", ["..", "/", "out", "out/p/../..", "loop", "loop/x", "file", "none", "x" * 300, "a\0b"]
)
def test_a_directory_that_is_none_of_the_projects_is_a_bad_request(cwd: str, project: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        thread_params({"cwd": cwd}, ProjectPaths(project, project), trusted=False)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("cwd", [None, "sub", ".", "sub/../sub"])
def test_every_directory_down_to_it_is_untrusted(cwd: str | None, project: Path) -> None:
    params = thread_params(
        {} if cwd is None else {"cwd": cwd}, ProjectPaths(project, project), trusted=False
    )
    config = params["config"]
    assert isinstance(config, dict)
    assert str(params["cwd"]) in config["projects"]
    assert {level["trust_level"] for level in config["projects"].values()} == {"untrusted"}


@pytest.mark.parametrize("config", [{"projects": {}}, {"sandbox_mode": "x"}, [1], "x"])
def test_a_config_that_could_undo_the_trust_is_refused(config: object, project: Path) -> None:
    with pytest.raises(SupervisorError):
        thread_params({"config": config}, ProjectPaths(project, project), trusted=True)


@pytest.mark.parametrize("cwd", ["sub", "/work/sub", "../p/sub"])
def test_mounted_elsewhere_it_goes_upstream_as_the_app_server_knows_it(
    cwd: str, project: Path
) -> None:
    params = thread_params({"cwd": cwd}, ProjectPaths(project, Path("/work")), trusted=False)
    assert params["cwd"] == "/work/sub"
    assert params["config"] == {
        "projects": {
            "/work": {"trust_level": "untrusted"},
            "/work/sub": {"trust_level": "untrusted"},
        }
    }


@pytest.mark.parametrize("cwd", ["/work/..", "/work/../../etc", "/worker", "/work/out"])
def test_mounted_elsewhere_it_leads_nowhere_else_all_the_same(cwd: str, project: Path) -> None:
    with pytest.raises(SupervisorError) as caught:
        thread_params({"cwd": cwd}, ProjectPaths(project, Path("/work")), trusted=False)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("other", ["/srv", "/srv/a", "/srv/a/b", "/srv/a/b/c"])
def test_contained_projects_do_not_hold_each_other(other: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        check_containable(Path("/srv/a/b"), [Path("/srv/x"), Path(other)])
    assert caught.value.code is ErrorCode.PROJECT_PATH_REFUSED
    check_containable(Path("/srv/a/b"), [Path("/srv/a/bc"), Path("/srv/a/c")])


def test_a_name_that_cannot_be_mounted_is_refused_where_it_would_be() -> None:
    with pytest.raises(SupervisorError) as caught:
        check_containable(Path("/srv/a\nb"), [])
    assert caught.value.code is ErrorCode.PROJECT_PATH_REFUSED
