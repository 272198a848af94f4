"""The bounds of a contained project's directories: an image where it can be had, else the watch.

`prepare` comes before the container, in whose mounts the file systems must be there already;
`watched` and `measure` (`ports.disk.Disk`) after. What is mounted is asked of the kernel each time,
so that a successor needs to be told nothing. CODEX_HOME's image is mounted while the project has a
container; the project's own stays, for people look at their files.
"""

import asyncio
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from supervisor.clock import Clock
from supervisor.errors import ErrorCode, SupervisorError
from supervisor.ids import ProjectId
from supervisor.logs import get_logger
from supervisor.ports.disk import DiskUse, WatchedTree
from supervisor.runtimes import disk_image
from supervisor.runtimes.disk_image import Mounted, Volume
from supervisor.runtimes.disk_walk import Walk
from supervisor.settings_groups import DiskSettings

log = get_logger()

HOME: Final = "CODEX_HOME"
PROJECT: Final = "the project"
_ENTRIES_AT_ONCE: Final = 2000
"""About 10 ms in a thread, which takes turns with the event loop's."""
_REST_SECONDS: Final = 0.05
_NEEDED_TO_START: Final = 1 << 20
"""Bytes. With none free in its CODEX_HOME Codex does not start: its databases cannot be opened."""


class DiskBounds:
    """One per supervisor. `own` is a project's directory in the state directory, `home` its
    agent's CODEX_HOME. Calls for one project come one after the other."""

    def __init__(
        self,
        settings: DiskSettings,
        own: Callable[[ProjectId], Path],
        home: Callable[[ProjectId], Path],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._own = own
        self.home = home
        self._clock = clock
        self._why: dict[Path, str] = {}
        self._orders: defaultdict[ProjectId, threading.Lock] = defaultdict(threading.Lock)
        self._walks = asyncio.Semaphore(os.cpu_count() or 1)

    # -- before a container, and after it: blocking

    def prepare(self, project: ProjectId, directory: Path, marker: str) -> None:
        """Mount what is to be bounded so; both directories are there, of the agent's uid.

        From here on the generation of `marker` holds CODEX_HOME: only its end lets go of it.
        `settings_invalid` where `mode = "image"` cannot be, `agent_start_failed` where an image
        cannot be mounted that may hold files, `disk_full` where CODEX_HOME is: it stays mounted,
        for somebody to free it.
        """
        with self._orders[project]:
            home = self._bound(self._home_volume(project))
            if home is not None and home.free < _NEEDED_TO_START:
                raise SupervisorError(
                    ErrorCode.DISK_FULL,
                    f"CODEX_HOME is full: {home.size} bytes are all used",
                    hint=f"Remove what it can do without from {self.home(project)}, or raise "
                    "disk.home_bytes; then restart the project.",
                )
            self._bound(self._project_volume(project, directory))
            if home is not None:
                self._holder(project).write_text(marker)

    def release_of(self, marker: str) -> str:
        """The container of that generation is gone, and with it the need for CODEX_HOME's mount,
        unless another generation has it by now; "" or why it stays. Idempotent."""
        project = ProjectId(marker.partition(":")[2].rpartition(":")[0])
        if not project:
            return ""
        with self._orders[project]:
            holder = self._holder(project)
            if not holder.exists() or holder.read_text() != marker:
                return ""
            why = disk_image.unmount(self._home_volume(project))
            if why:
                log.warning("disk_stays_mounted", project=project, why=why)
            else:
                holder.unlink()
            return why

    def release_project(self, project: ProjectId, directory: Path) -> str:
        """Unmount the project: its files are away from their place until the next start."""
        return disk_image.unmount(self._project_volume(project, directory))

    # -- ports.disk.Disk

    async def watched(self, project: ProjectId, directory: Path) -> Sequence[WatchedTree]:
        return await asyncio.to_thread(self._watched, project, directory)

    async def measure(self, tree: WatchedTree) -> DiskUse:
        """A few percent of a processor; as many trees at once as there are processors."""
        walk = Walk(tree.directory, tree.bound)
        try:
            while (use := walk.use) is None:
                async with self._walks:
                    await asyncio.to_thread(walk.step, _ENTRIES_AT_ONCE)
                await self._clock.sleep(_REST_SECONDS)
        finally:
            # A step may be under way in its thread, and has to end first.
            await asyncio.shield(asyncio.to_thread(walk.close))
        return use

    # --

    def _holder(self, project: ProjectId) -> Path:
        """A file with the marker of the generation that has CODEX_HOME, for successors too."""
        return self._own(project) / "codex-home.holder"

    def _home_volume(self, project: ProjectId) -> Volume:
        image = self._own(project).resolve() / "codex-home.ext4"
        return Volume(directory=self.home(project), image=image, size=self._settings.home_bytes)

    def _project_volume(self, project: ProjectId, directory: Path) -> Volume:
        image = self._own(project).resolve() / "project.ext4"
        return Volume(directory=directory, image=image, size=self._settings.project_bytes)

    def _bound(self, volume: Volume) -> Mounted | None:
        """None: it is not bounded, or watched. An image there is goes on in use in any mode: its
        files are in it."""
        self._why.pop(volume.directory, None)
        if not disk_image.is_there(volume.image) and (
            volume.size is None or self._settings.mode == "watch"
        ):
            return None
        got = disk_image.mount(volume)
        if isinstance(got, Mounted):
            return got
        self._fall_back(volume.directory, got.why)
        return None

    def _fall_back(self, directory: Path, why: str) -> None:
        if self._settings.mode == "image":
            raise SupervisorError(
                ErrorCode.SETTINGS_INVALID,
                f"{directory} cannot have a file system of its own: {why}",
                hint='Mend that, or set disk.mode to "auto" or "watch".',
            )
        log.info("disk_watched", directory=str(directory), why=why)
        self._why[directory] = why

    def _watched(self, project: ProjectId, directory: Path) -> list[WatchedTree]:
        volumes = {
            PROJECT: self._project_volume(project, directory),
            HOME: self._home_volume(project),
        }
        return [
            WatchedTree(
                name=name,
                directory=volume.directory,
                bound=volume.size,
                why=self._why.get(volume.directory, ""),
            )
            for name, volume in volumes.items()
            if volume.size is not None and disk_image.find(volume) is None
        ]
