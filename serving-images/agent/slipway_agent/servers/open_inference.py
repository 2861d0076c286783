"""The Open Inference Protocol's model repository index. Pure: an answer's bytes in, versions out."""

from collections.abc import Mapping

from slipway_agent.config import parse_version
from slipway_agent.model.untrusted_json import parse_json


def read_index(body: bytes, model: str) -> frozenset[int]:
    """The versions of this model that are READY, as POST /v2/repository/index answers; none in another answer."""
    try:
        entries = parse_json(body)
    except ValueError:
        return frozenset()
    named = (
        parse_version(str(entry.get("version")))
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and entry.get("name") == model and entry.get("state") == "READY"
    )
    return frozenset(version for version in named if version is not None)
