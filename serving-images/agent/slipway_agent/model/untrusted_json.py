"""JSON that a stranger wrote: what can't be read is a ValueError, whatever it is that is wrong with it. Pure."""

import json
from typing import Any


def parse_json(content: str | bytes) -> Any:
    """`json.loads`, but for text nested deeper than Python's stack, which raises RecursionError there.

    A caller that expects ValueError alone would end with it, and the agent's thread with the caller.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
