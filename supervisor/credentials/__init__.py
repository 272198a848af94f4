"""How credentials are kept out of the sandbox: a process that holds them, and the link to it.

`proxy` is that process (`codex-supervisor proxy`); `link` is the supervisor's end; `netns` opens
the sockets inside of containers. docs/proxy.md tells of it.
"""
