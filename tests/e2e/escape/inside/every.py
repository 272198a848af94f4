"""The whole catalogue, in the order it is run: what harms the attacker most comes last."""

from tests.e2e.escape.inside import (
    try_files,
    try_kernel,
    try_mounts,
    try_network,
    try_privileges,
    try_processes,
    try_resources,
)
from tests.e2e.escape.inside.attempting import CATALOGUE

__all__ = ["CATALOGUE", "MODULES"]

MODULES = (
    try_files,
    try_processes,
    try_network,
    try_privileges,
    try_mounts,
    try_kernel,
    try_resources,
)
