"""podman-py, as far as it is used: import this module only when podman is asked something.

It takes a tenth of a second, and half a second more where nothing has been compiled yet.
"""

import socket
import time
from contextlib import closing
from typing import Final
from urllib.parse import unquote, urlsplit

from podman import PodmanClient
from podman.api.uds import UDSAdapter, UDSConnection, UDSConnectionPool
from urllib3.exceptions import HTTPError

_IS_PODMAN: Final = "Libpod-Api-Version"
_ANSWER_BYTES: Final = 64 << 20
_PIECE_BYTES: Final = 64 << 10


class NotPodmanError(Exception):
    """Somebody else answers."""


class _Connection(UDSConnection):
    def connect(self) -> None:
        """As podman-py does, which leaves the socket open where nobody listens."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            made.connect(unquote(urlsplit(self.uds).netloc))
        except BaseException:
            made.close()
            raise
        self.sock = made


class _Pool(UDSConnectionPool):
    ConnectionCls = _Connection


def exchanged(
    address: str, patience: float, verb: str, path: str, params: dict[str, str]
) -> tuple[int, bytes]:
    """The status and the body of one answer of the service that listens at `address`.

    Raises OSError for all that goes wrong with the connection, or takes longer than `patience`
    seconds, and `NotPodmanError`.
    """
    deadline = time.monotonic() + patience
    with PodmanClient(base_url=f"unix://{address}", timeout=patience) as client:
        api = client.api
        adapter = api.get_adapter("http://")
        assert isinstance(adapter, UDSAdapter)
        assert adapter.poolmanager is not None
        adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool}
        ask = {"GET": api.get, "DELETE": api.delete}[verb]
        # Not by its methods for containers: they take one label at most, and silently no list.
        with closing(ask(path, params=params, stream=True)) as response:
            if _IS_PODMAN not in response.headers:
                raise NotPodmanError
            body = bytearray()
            try:
                # What is there, piece by piece: a larger read would wait for its last byte.
                while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
                    body += piece
                    if len(body) > _ANSWER_BYTES or time.monotonic() > deadline:
                        raise OSError("it has no end")
            except HTTPError as error:
                raise OSError(str(error)) from error
            return response.status_code, bytes(body)
