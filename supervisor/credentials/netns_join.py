"""The part of `netns` that runs inside of the namespace; without root, as a program of its own:

    python -I -S netns_join.py SOCKET USER_NAMESPACE NETWORK_NAMESPACE PORT...

The first three are open descriptors. The listening sockets go over the first one, or words that
say why there are none. It imports nothing of ours: it has to be up in no time.
"""

import ctypes
import os
import socket
import sys
from collections.abc import Sequence

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
BACKLOG = 128


def listeners(ports: Sequence[int]) -> list[socket.socket]:
    """Sockets that listen on these ports of 127.0.0.1. OSError, and none is left open."""
    made: list[socket.socket] = []
    try:
        for port in ports:
            # With SO_REUSEADDR: connections of a predecessor may not be over yet.
            made.append(socket.create_server(("127.0.0.1", port), backlog=BACKLOG))
            made[-1].setblocking(False)
    except OSError:
        for each in made:
            each.close()
        raise
    return made


def main(arguments: Sequence[str]) -> None:
    """The program."""
    channel, user, network, *ports = map(int, arguments)
    with socket.socket(fileno=channel) as out:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            for descriptor, kind in ((user, CLONE_NEWUSER), (network, CLONE_NEWNET)):
                if libc.setns(descriptor, kind) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made = listeners(ports)
        except OSError as error:
            out.sendall((error.strerror or str(error)).encode())
            return
        socket.send_fds(out, [b"listening"], [each.fileno() for each in made])


if __name__ == "__main__":
    main(sys.argv[1:])
