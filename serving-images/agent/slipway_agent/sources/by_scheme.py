"""The places that model versions can come from, by the scheme of model.uri: one entry each.

Another object store (gs, az) is one entry that hands a store with ObjectStore's two verbs to ObjectSource. A module is
imported when its scheme is used, because the libraries behind them cost memory that most pods have no use for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from slipway_agent.config import Config, Source, show_url
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.sources.base import ModelSource

HoldsModel: TypeAlias = Callable[[Path], bool]
Opener: TypeAlias = Callable[[Source, int | None, HoldsModel], ModelSource]


def open_scheme(config: Config, holds_model: HoldsModel) -> ModelSource:
    """The source that agent.json names. No I/O yet. SpecError(ConfigInvalid) for a scheme that isn't known."""
    source = config.source
    opener = _open_path if source.path is not None else SCHEMES.get(source.scheme)
    if opener is None:
        raise SpecError(
            Reason.CONFIG_INVALID,
            f"{show_url(source.uri)} can't be fetched: this agent has no source for {source.scheme}://. Use an agent "
            "image of the operator's version",
        )
    return opener(source, config.served, holds_model)


def _open_path(source: Source, served: int | None, holds_model: HoldsModel) -> ModelSource:
    from slipway_agent.sources.mounted_folder import PathSource

    return PathSource(source, served, holds_model)


def _open_https(source: Source, served: int | None, holds_model: HoldsModel) -> ModelSource:
    from slipway_agent.sources.https import HttpsSource

    return HttpsSource(source)


def _open_s3(source: Source, served: int | None, holds_model: HoldsModel) -> ModelSource:
    from slipway_agent.sources.object_store import ObjectSource
    from slipway_agent.sources.s3 import S3

    return ObjectSource(source, S3(source), served, holds_model)


def _open_oci(source: Source, served: int | None, holds_model: HoldsModel) -> ModelSource:
    from slipway_agent.sources.oci import OciSource

    return OciSource(source)


SCHEMES: Mapping[str, Opener] = {
    "https": _open_https,
    "oci": _open_oci,
    "s3": _open_s3,
}
