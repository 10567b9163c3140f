"""Open files whose writes fail from now on, as on a full disk: closing them fails if something is buffered."""

import os
from typing import IO, Any


def fail_writes(file: IO[Any]) -> None:
    """Has an open file refer to itself opened for reading only."""
    handle = os.open(file.name, os.O_RDONLY)
    os.dup2(handle, file.fileno())
    os.close(handle)
