"""Whether a live object still says what was rendered for it.

The comparison is the one that server-side apply makes: what we render must stand in the live object with our values;
what others added beside it is theirs. So `differs` is False right after an apply, and a pass without a change writes
nothing. Quantities are compared as amounts: the API server writes 1000m as 1.
Must not import: what renders. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from slipway.api.pod_lists import MERGE_KEYS
from slipway.api.quantity import parse_quantity

LIST_MAPS = {*MERGE_KEYS, "ownerReferences"}
"""Lists whose items have keys: others may add items. Any other list is one value, and ours as a whole."""
ONE_VALUE = {"selector", "podSelector", "ingress"}
"""One value to the API server and to what it stands for: a key more selects other pods, or lets others in."""
QUANTITY_FIELDS = {"limits", "requests", "overhead"}
QUANTITY_LEAVES = {"sizeLimit", "divisor"}


def differs(rendered: Any, live: Any, *, field: str = "", amounts: bool = False) -> bool:
    """Whether anything rendered is missing from, or other than, what is live.

    An empty map or list rendered is met by an absent one: the API server drops them. `field` is the name under which
    both stand. `amounts` says that the leaves below are quantities.
    """
    if rendered == live:
        return False
    match rendered:
        case dict() | list() if field in ONE_VALUE:
            return bool(rendered != live)
        case dict():
            live = live if isinstance(live, dict) else {}
            return any(
                differs(
                    value,
                    live.get(key),
                    field=key,
                    amounts=amounts or key in QUANTITY_FIELDS or key in QUANTITY_LEAVES,
                )
                for key, value in rendered.items()
            )
        case list():
            live = live if isinstance(live, list) else []
            if field in LIST_MAPS:
                return not all(any(not differs(item, other) for other in live) for item in rendered)
            return len(rendered) != len(live) or any(map(differs, rendered, live))
        case None:
            return live is not None
        case _ if amounts:
            return bool(amount(rendered) != amount(live))
        case _:
            # A field at its zero value may be dropped by the API server.
            return bool(rendered != live) and not (rendered in (False, 0, "") and live is None)


def differing_fields(rendered: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which fields differ, by the names on the way to each. A list is one field.

    >>> list(differing_fields({"spec": {"replicas": 2, "paused": True}}, {"spec": {"replicas": 7, "paused": True}}))
    [('spec', 'replicas')]
    """
    for name, value in rendered.items():
        other = live.get(name)
        if not differs(value, other, field=name):
            continue
        if isinstance(value, Mapping) and isinstance(other, Mapping) and name not in ONE_VALUE:
            yield from ((name, *rest) for rest in differing_fields(value, other))
        else:
            yield (name,)


def amount(quantity: Any) -> Decimal | str | None:
    """A Kubernetes quantity as a number; what is no quantity is compared as it is.

    >>> amount("1000m") == amount(1), amount("1Gi") == amount("1024Mi")
    (True, True)
    """
    if quantity is None:
        return None
    try:
        return parse_quantity(quantity)
    except ValueError:
        return str(quantity)
