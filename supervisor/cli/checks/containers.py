"""Containers: podman, the image, the init, and the key of the model. Only where they are used."""

import os
import stat

from supervisor.cli.checks import Check, Finding, fail, ok, warn
from supervisor.cli.checks.service import open_projects
from supervisor.settings import Settings, environment


def podman(settings: Settings) -> Finding:
    """It is there, and starts a container: the first time after a boot, one is tried."""
    from supervisor.runtimes.readiness import podman_for

    with podman_for(settings, environment()) as asked:
        version = asked.ask("version", "--format", "{{.Client.Version}}").strip()
        runtime = asked.ask("info", "--format", "{{.Host.OCIRuntime.Name}}").strip()
    return ok(f"{version} with {runtime}")


def image(settings: Settings) -> Finding:
    """It is in podman's store: none is pulled."""
    from supervisor.runtimes.readiness import has_image, no_image, podman_for

    with podman_for(settings, environment()) as asked:
        if has_image(asked, settings):
            return ok(settings.podman.image)
    return fail(no_image(settings), "images/agent/build makes it, or set podman.image.")


def limits(settings: Settings) -> Finding:
    """Whether the kernel will enforce what containers may use."""
    from supervisor.runtimes.confinement import expected
    from supervisor.runtimes.readiness import podman_for

    with podman_for(settings, environment()) as asked:
        sort = asked.sort()
    doubts = expected(
        rootless=sort.rootless, cgroups=sort.cgroups, controllers=sort.controllers or ()
    )
    if not doubts:
        return ok(f"in force, by cgroups {sort.cgroups}")
    said, hint = "; ".join(doubts), "Run as root, or delegate the controllers (cgroups v2)."
    return fail(said, hint) if settings.podman.require_limits else warn(said, hint)


def inner_wall(settings: Settings) -> Finding:
    """Codex's own sandbox, as each container that runs was found to have it at its start."""
    wish, found = settings.podman.inner_wall, open_projects(settings)
    if wish == "off":
        return ok("not wanted: podman.inner_wall is off")
    if found is None:
        return ok("not asked: no supervisor runs, and it is tried when an agent starts")
    walls = [(one["project"], one["innerWall"]) for one in found if one["innerWall"] is not None]
    broken = [
        f"{name} {wall['state']} ({wall['reason']})" for name, wall in walls if wall["reason"]
    ]
    if broken:
        return warn("; ".join(broken), "Allow user namespaces to containers.")
    return ok(f"{len(walls)} containers run, and it holds in each")


def init(settings: Settings) -> Finding:
    """A static init that becomes PID 1 of every container."""
    from supervisor.runtimes.containing import init_binary

    return ok(str(init_binary(settings.podman.init_bin)))


def model_key(settings: Settings) -> Finding:
    """The proxy's, for its eyes only. Its content is not read."""
    proxy = settings.proxy
    if proxy.credential is not None:
        return ok(f"the systemd credential {proxy.credential} of the proxy's unit")
    if proxy.key_file is None:
        return warn(
            f"none: requests go to {proxy.base_url} without one",
            "Set proxy.key_file or proxy.credential.",
        )
    try:
        found = proxy.key_file.stat()
    except OSError as error:
        return fail(
            f"{proxy.key_file} cannot be read: {error.strerror}",
            "Put the key there, mode 0600, or name another file with proxy.key_file.",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warn(f"others can read {proxy.key_file}", f"chmod 600 {proxy.key_file}")
    if found.st_uid not in (0, os.geteuid()):
        return warn(f"{proxy.key_file} belongs to uid {found.st_uid}", "Make it root's, or yours.")
    return ok(str(proxy.key_file))


CHECKS: dict[str, Check] = {
    "podman": podman,
    "agent image": image,
    "container init": init,
    "container limits": limits,
    "inner wall": inner_wall,
    "model key": model_key,
}
