"""The run line, whole; and what no container is made of."""

import itertools
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import Generation, ProjectId
from supervisor.ports.runtime import Launch
from supervisor.runtimes.spec import (
    CODEX_BINARY,
    ContainerSettings,
    ExtraMount,
    Limits,
    container_name,
    run_argv,
)

FILES = Path("/var/lib/supervisor/podman/x")
STATE = Path("/var/lib/supervisor")
PROJECT = Path("/srv/projects/one")
EXTRA = ExtraMount(source=Path("/srv/data"), destination=Path("/data"))

SETTINGS = ContainerSettings(
    image="localhost/agent:1",
    uid=1000,
    gid=1001,
    codex_folder=STATE / "copies" / "codex-1",
    init=STATE / "copies" / "init-1" / "catatonit",
    codex_home=STATE / "projects" / "one" / "codex-home",
    state_dir=STATE,
)
SPOOL = STATE / "projects" / "one" / "3"
LAUNCH = Launch(
    project=ProjectId("one"),
    generation=Generation(3),
    directory=PROJECT,
    argv=[str(CODEX_BINARY), "-c", 'a="b"', "app-server"],
    env={"LANG": "C.UTF-8", "HTTPS_PROXY": "http://proxy.example:3128"},
    marker="state:one:3",
    stdin=SPOOL / "stdin",
    stdout=SPOOL / "stdout",
    stderr=SPOOL / "stderr",
)

RUN_LINE = """
run -d -i --log-driver passthrough --pull never
--name codex-supervisor-b827fd13330e3ecd41fae6ac
--cidfile /var/lib/supervisor/podman/x/cid --pidfile /var/lib/supervisor/podman/x/pid
--label codex-supervisor.marker=state:one:3
--label codex-supervisor.project=one --label codex-supervisor.generation=3
--init --init-path /var/lib/supervisor/copies/init-1/catatonit
--network none --no-hosts --http-proxy=false --user 1000:1001
--cap-drop=all --security-opt=no-new-privileges --read-only --read-only-tmpfs=false
--image-volume ignore --no-healthcheck --systemd=false --hostname agent --stop-timeout 5
--memory 1073741824b --memory-swap 1073741824b --pids-limit 256 --cpus 1.5
--shm-size 16777216b --tmpfs /tmp:rw,nosuid,nodev,size=268435456,mode=1777
--env LANG=C.UTF-8 --env HTTPS_PROXY=http://127.0.0.1:9
--env CODEX_HOME=/codex --env HOME=/codex --env CODEX_SUPERVISOR_GENERATION=state:one:3
--mount type=bind,src=/srv/projects/one,dst=/srv/projects/one,nosuid,nodev
--mount type=bind,src=/var/lib/supervisor/projects/one/codex-home,dst=/codex,nosuid,nodev
--mount type=bind,src=/var/lib/supervisor/copies/codex-1,dst=/opt/codex,ro=true,nosuid,nodev
--workdir /srv/projects/one --entrypoint /opt/codex/bin/codex localhost/agent:1
-c a="b" app-server
"""


def with_(**changes: object) -> ContainerSettings:
    return msgspec.structs.replace(SETTINGS, **changes)


def at(directory: str) -> Launch:
    return msgspec.structs.replace(LAUNCH, directory=Path(directory))


def refused(settings: ContainerSettings, launch: Launch = LAUNCH) -> SupervisorError:
    with pytest.raises(SupervisorError) as caught:
        run_argv(settings, launch, FILES)
    return caught.value


def mounts(settings: ContainerSettings, launch: Launch = LAUNCH) -> list[str]:
    argv = run_argv(settings, launch, FILES)
    return [value for name, value in itertools.pairwise(argv) if name == "--mount"]


def test_the_run_line() -> None:
    assert run_argv(SETTINGS, LAUNCH, FILES) == RUN_LINE.split()


def test_the_name_follows_from_the_marker_alone() -> None:
    assert container_name("a:b:1") == container_name("a:b:1")
    assert container_name("a:b:1") != container_name("a:b:10")


def test_limits_are_the_settings_own() -> None:
    limits = Limits(memory_bytes=5, pids=6, cpus=0.25, tmp_bytes=7, shm_bytes=8)
    line = " ".join(run_argv(with_(limits=limits), LAUNCH, FILES))
    assert "--memory 5b --memory-swap 5b --pids-limit 6 --cpus 0.25 --shm-size 8b" in line
    assert "size=7," in line


def test_without_root_the_agent_keeps_the_supervisors_own_uid() -> None:
    line = " ".join(run_argv(with_(userns="keep-id"), LAUNCH, FILES))
    assert " --userns=keep-id --user 1000:1001 " in line


def test_pinned_files_and_extra_mounts_are_read_only() -> None:
    settings = with_(
        requirements=STATE / "requirements.toml",
        config=STATE / "config.toml",
        extra_mounts=[
            EXTRA,
            msgspec.structs.replace(EXTRA, destination=Path("/rw"), writable=True),
        ],
    )
    assert mounts(settings)[3:] == [
        "type=bind,src=/var/lib/supervisor/requirements.toml,dst=/etc/codex/requirements.toml,"
        "ro=true,nosuid,nodev",
        "type=bind,src=/var/lib/supervisor/config.toml,dst=/etc/codex/config.toml,"
        "ro=true,nosuid,nodev",
        "type=bind,src=/var/lib/supervisor/config.toml,dst=/codex/config.toml,ro=true,nosuid,nodev",
        "type=bind,src=/srv/data,dst=/data,ro=true,nosuid,nodev",
        "type=bind,src=/srv/data,dst=/rw,nosuid,nodev",
    ]


def test_a_mount_point_takes_the_place_of_the_projects_own_path() -> None:
    settings = with_(mount_point=Path("/work"))
    argv = run_argv(settings, LAUNCH, FILES)
    assert argv[argv.index("--workdir") + 1] == "/work"
    assert mounts(settings)[0] == "type=bind,src=/srv/projects/one,dst=/work,nosuid,nodev"


def test_a_path_with_commas_and_quotes_is_one_field() -> None:
    assert mounts(SETTINGS, at('/srv/a,ro=false"b'))[0] == (
        'type=bind,"src=/srv/a,ro=false""b","dst=/srv/a,ro=false""b",nosuid,nodev'
    )


def test_a_launch_of_nothing_is_refused() -> None:
    launch = msgspec.structs.replace(LAUNCH, argv=[])
    assert refused(SETTINGS, launch).code is ErrorCode.AGENT_START_FAILED


@pytest.mark.parametrize(
    "directory",
    [
        *("/", "/usr", "/etc", "/tmp", "/var", "/proc/1", "/dev/shm", "/codex", "/codex/x"),
        *("/opt/codex/bin", "/etc/codex", "/run/podman-init", "relative", "/srv/../etc", "/a\nb"),
        *(str(STATE), str(STATE / "projects"), str(STATE.parent)),
    ],
)
def test_what_cannot_be_a_project_is_refused(directory: str) -> None:
    assert refused(SETTINGS, at(directory)).code is ErrorCode.PROJECT_PATH_REFUSED


@pytest.mark.parametrize("mount_point", ["/", "/etc", "/codex", "/opt", "work"])
def test_a_mount_point_that_covers_what_is_needed_is_refused(mount_point: str) -> None:
    error = refused(with_(mount_point=Path(mount_point)))
    assert error.code is ErrorCode.PROJECT_PATH_REFUSED


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 0},
        {"gid": 0},
        {"uid": -1},
        {"image": ""},
        {"image": "--privileged"},
        {"image": "a b"},
        {"limits": Limits(memory_bytes=0)},
        {"limits": Limits(pids=-1)},
        {"limits": Limits(cpus=0.0)},
    ],
)
def test_settings_that_would_open_the_wall_are_refused(changes: dict[str, object]) -> None:
    assert refused(with_(**changes)).code is ErrorCode.SETTINGS_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"codex_home": PROJECT / "home"},
        {"codex_home": PROJECT},
        {"codex_folder": PROJECT / "codex"},
        {"init": PROJECT / "init"},
        {"requirements": PROJECT / "requirements.toml"},
        {"config": SETTINGS.codex_home / "config.toml"},
        {"codex_home": STATE},
        {"codex_home": SPOOL},
        {"codex_home": Path("relative")},
    ],
)
def test_nothing_of_ours_is_where_the_agent_can_write(changes: dict[str, object]) -> None:
    assert refused(with_(**changes)).code is ErrorCode.STATE_DIRECTORY_UNSAFE


def test_a_spool_in_the_project_is_refused() -> None:
    launch = msgspec.structs.replace(LAUNCH, stdout=PROJECT / "stdout")
    assert refused(SETTINGS, launch).code is ErrorCode.STATE_DIRECTORY_UNSAFE


def test_nothing_of_ours_is_in_a_writable_mount() -> None:
    shared = ExtraMount(source=Path("/srv/shared"), destination=Path("/shared"), writable=True)
    settings = with_(extra_mounts=[shared], requirements=Path("/srv/shared/requirements.toml"))
    assert refused(settings).code is ErrorCode.STATE_DIRECTORY_UNSAFE
    read_only = msgspec.structs.replace(shared, writable=False)
    assert mounts(msgspec.structs.replace(settings, extra_mounts=[read_only]))


@pytest.mark.parametrize(
    "mount",
    [
        msgspec.structs.replace(EXTRA, source=PROJECT / "data"),
        msgspec.structs.replace(EXTRA, source=PROJECT.parent, writable=True),
        msgspec.structs.replace(EXTRA, source=Path("/")),
        msgspec.structs.replace(EXTRA, source=STATE / "audit"),
        msgspec.structs.replace(EXTRA, source=STATE.parent),
        msgspec.structs.replace(EXTRA, source=Path("data")),
        msgspec.structs.replace(EXTRA, destination=Path("data")),
        msgspec.structs.replace(EXTRA, destination=PROJECT / "data"),
        msgspec.structs.replace(EXTRA, destination=PROJECT.parent),
        msgspec.structs.replace(EXTRA, destination=Path("/codex/skills")),
        msgspec.structs.replace(EXTRA, destination=Path("/usr")),
    ],
)
def test_an_extra_mount_that_opens_the_wall_is_refused(mount: ExtraMount) -> None:
    assert refused(with_(extra_mounts=[mount])).code is ErrorCode.SETTINGS_INVALID


def test_a_mount_from_below_a_writable_one_is_refused() -> None:
    writable = msgspec.structs.replace(EXTRA, writable=True)
    below = ExtraMount(source=EXTRA.source / "below", destination=Path("/below"))
    error = refused(with_(extra_mounts=[below, writable]))
    assert error.code is ErrorCode.SETTINGS_INVALID
    assert mounts(with_(extra_mounts=[below, EXTRA]))


def test_two_extra_mounts_do_not_overlap() -> None:
    below = msgspec.structs.replace(EXTRA, destination=EXTRA.destination / "below")
    assert refused(with_(extra_mounts=[EXTRA, below])).code is ErrorCode.SETTINGS_INVALID
