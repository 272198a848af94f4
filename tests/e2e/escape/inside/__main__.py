"""`python3 -m tests.e2e.escape.inside FACTS RESULTS [NAME...]`, in a container."""

import sys

from tests.e2e.escape.inside.attempting import main
from tests.e2e.escape.inside.every import CATALOGUE

assert CATALOGUE
main(sys.argv[1:])
