"""What a container reaches on its own loopback, and nothing else (D4)."""

from typing import Final

MODEL_PORT: Final = 8181
"""The model API."""
CONNECT_PORT: Final = 8182
"""The allow-listed CONNECT proxy, where the settings allow any host."""
