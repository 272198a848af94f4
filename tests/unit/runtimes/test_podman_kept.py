"""What is kept of a container's start, and what of it the settings say otherwise later."""

from pathlib import Path

import msgspec
import pytest

from supervisor.ids import Generation, ProjectId
from supervisor.policy.inner_wall import Wish
from supervisor.policy.pinned import config_toml, requirements_toml
from supervisor.ports.runtime import Launch
from supervisor.runtimes.podman_command import Sort
from supervisor.runtimes.podman_kept import Changed, Kept, changed, keep, kept_of, read_kept
from supervisor.runtimes.spec import ContainerSettings, Limits
from supervisor.settings import Settings

HERE = Path("/srv/project")
SORT = Sort(oci="/o", rootless=True, cgroups="v2", version="5", controllers=None, seccomp="")


def launch(*, walled: bool) -> Launch:
    nowhere = Path("/nowhere")
    return Launch(
        project=ProjectId("p"),
        generation=Generation(1),
        directory=HERE,
        walled=walled,
        argv=["codex"],
        env={},
        marker="m",
        stdin=nowhere,
        stdout=nowhere,
        stderr=nowhere,
    )


def settings(wish: Wish, **proxy: str) -> Settings:
    return Settings.model_validate({"podman": {"inner_wall": wish}, "proxy": proxy})


def started(
    root: Path, wish: Wish, *, walled: bool = True, mount_point: Path | None = None
) -> Kept:
    given = settings(wish)
    requirements, config = root / "requirements.toml", root / "config.toml"
    requirements.write_text(requirements_toml(given, walled=walled))
    config.write_text(config_toml(given, walled=walled))
    container = ContainerSettings(
        image="i",
        uid=1,
        gid=1,
        codex_folder=root,
        init=root,
        codex_home=root,
        state_dir=root,
        requirements=requirements,
        config=config,
        limits=Limits(pids=77),
        mount_point=mount_point,
    )
    return kept_of(container, launch(walled=walled), SORT)


def test_what_is_kept_is_read_again_and_anything_else_is_nothing(tmp_path: Path) -> None:
    kept = started(tmp_path, "prefer")
    assert (kept.limits.pids, kept.rootless, kept.cgroups, kept.inside) == (
        *(77, True, "v2"),
        str(HERE),
    )
    assert read_kept(tmp_path) is None
    keep(tmp_path, kept)
    assert read_kept(tmp_path) == kept
    (file,) = tmp_path.glob("*.json")
    for text in (b"", b"{}", b"[", b'{"limits": 1}'):
        file.write_bytes(text)
        assert read_kept(tmp_path) is None


def test_a_project_that_is_to_be_elsewhere_takes_another_start(tmp_path: Path) -> None:
    for mounted, wanted in ((None, Path("/b")), (Path("/a"), HERE), (Path("/a"), Path("/b"))):
        kept = started(tmp_path, "off", mount_point=mounted)
        found = changed(kept, settings("off"), wanted)
        assert f"is at {mounted or HERE} in it" in found.outdated
        assert f"is to be at {wanted}" in found.outdated
        assert changed(kept, settings("off"), mounted or HERE) == Changed()


@pytest.mark.parametrize(
    ("at_start", "walled", "now", "says"),
    [
        ("off", True, "off", ""),
        ("off", True, "prefer", "doubted"),
        ("off", True, "require", "outdated"),
        ("prefer", True, "prefer", ""),
        ("prefer", True, "off", "doubted"),
        ("prefer", True, "require", ""),
        # It was preferred, and not to be had: so it may go on, unless it is required.
        ("prefer", False, "prefer", ""),
        ("prefer", False, "require", "outdated"),
        ("require", True, "prefer", ""),
        ("require", True, "require", ""),
    ],
)
def test_only_a_required_wall_takes_another_start(
    tmp_path: Path, at_start: Wish, walled: bool, now: Wish, says: str
) -> None:
    found = changed(started(tmp_path, at_start, walled=walled), settings(now), HERE)
    assert bool(found.outdated) is (says == "outdated")
    assert bool(found.doubts) is (says == "doubted")


def test_any_other_pinned_setting_counts_as_well(tmp_path: Path) -> None:
    kept = started(tmp_path, "prefer")
    # Codex is told whether the model is OpenAI's own.
    assert changed(kept, settings("prefer", base_url="http://127.0.0.1:1/v1"), HERE).doubts
    assert changed(msgspec.structs.replace(kept, pinned=""), settings("prefer"), HERE).doubts
