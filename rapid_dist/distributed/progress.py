"""Lines that workers say, brought to the driver's terminal without Ray's own noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rapid_dist.distributed.mailbox import mailbox
from rapid_dist.telemetry import Say, say


@contextlib.contextmanager
def relayed_lines() -> Iterator[Say]:
    """Gives a function that any worker may call to say a line; the driver prints what arrives.

    The function pickles. A line that cannot be delivered is lost, never an error.
    """
    with mailbox(say, name="relayed-lines") as post:
        yield post
