"""The world outside, played in a network namespace of its own: `unshare --net python3 FILE JSON`.

A container without walls joins it in the host's stead: there are a metadata service, a gateway,
somebody far away, and what listens on the host's loopback. No packet leaves it. It ends with its
stdin.
"""

import json
import socket
import subprocess
import sys


def main() -> None:
    told = json.loads(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in told["addresses"]:
        bits = "128" if ":" in address else "32"
        subprocess.run(["ip", "address", "add", f"{address}/{bits}", "dev", "lo"], check=True)
    # Broadcasts and name servers of whatever address have somewhere to go.
    subprocess.run(["ip", "route", "add", "default", "dev", "lo"], check=True)
    listening = [_listener(port) for port in told["ports"]]
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind("\0" + told["abstract"])
    abstract.listen(16)
    print("ready", len(listening), flush=True)
    sys.stdin.read()


def _listener(port: int) -> socket.socket:
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16
    )


if __name__ == "__main__":
    main()
