"""What follows from one agent.json: the World, and the volume, server and source that it is about."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from slipway_agent.config import Config
from slipway_agent.fetching.pipeline import open_source
from slipway_agent.model.golden import GoldenReport
from slipway_agent.model.signature import Signature
from slipway_agent.plan.discovery import Listing
from slipway_agent.plan.transitions import reconfigure, restore
from slipway_agent.plan.world import World
from slipway_agent.reporting.log import Log
from slipway_agent.servers.base import DriverInputs, Server
from slipway_agent.servers.by_runtime import KINDS
from slipway_agent.servers.wrappers.golden import Clearance, GoldenServer
from slipway_agent.servers.wrappers.warmup import WarmingServer, Warmth
from slipway_agent.sources.base import ModelSource
from slipway_agent.sources.secrets import SecretStamp
from slipway_agent.volume.models_volume import ModelVolume


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a version's signature. `retry_at`: when the server is asked again; None: never."""

    digest: str | None
    signature: Signature | None = None
    attempts: int = 0
    retry_at: float | None = None


@dataclass(slots=True)
class ModelState:
    """Changed on the loop's thread alone. The volume and its ledger outlive a change of agent.json, and with them what
    is known of warm-up (`warmth`) and golden requests (`clearance`). `recorded`: the digests that versions had before.
    `secret`: names the Secret that the source was last asked with. `is_…`: that work is under way on its thread.
    Thirteen fields: each has its own life."""

    world: World
    volume: ModelVolume
    server: Server
    source: ModelSource
    warmth: Warmth
    clearance: Clearance
    listing: Listing = field(default_factory=Listing)
    is_listing: bool = False
    descriptions: dict[int, Description] = field(default_factory=dict)
    is_describing: bool = False
    is_probing: bool = False
    recorded: Mapping[int, str] = field(default_factory=dict)
    secret: SecretStamp = ()

    def report_golden(self) -> GoldenReport | None:
        """The progress of the served version's golden requests; None without any."""
        config = self.world.config
        return None if config.golden is None or config.served is None else self.clearance.report(config.served)

    def report_signatures(self) -> dict[int, Signature | None]:
        """Of versions whose server has answered, None where it has no signature."""
        return {version: each.signature for version, each in self.descriptions.items() if each.retry_at is None}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What no agent.json changes. `recorded_digests`: what a rollback may need again, read by the fetching thread;
    `digest_of`: of what is published now, read by the loading thread."""

    models: Path
    server_key: str | None = field(repr=False)
    log: Log
    recorded_digests: Callable[[], frozenset[str]]
    digest_of: Callable[[int], str | None]


def open_model(config: Config, before: ModelState | None, around: Surroundings) -> ModelState:
    """The state under this agent.json, which goes on from `before` where that is about the same model.

    SpecError for what this agent can't do; `before` is then as it was.
    """
    is_same_model = before is not None and before.volume.model == config.model
    volume = before.volume if before is not None and is_same_model else ModelVolume(around.models, config.model)
    volume.limit(config.source.limits.volume_bytes)
    inputs = DriverInputs(volume, config, around.server_key, around.log.info)
    driver = KINDS[config.runtime].open(inputs, config.settings)
    source = open_source(config, driver, around.log.warning, around.recorded_digests)
    if before is not None and is_same_model:
        model = _go_on(before, config, driver, source)
    else:
        model = _begin(config, volume, driver, source, around)
    model.clearance.expect(config.golden.fingerprint() if config.golden is not None else "")
    return model


def _begin(
    config: Config, volume: ModelVolume, driver: Server, source: ModelSource, around: Surroundings
) -> ModelState:
    warmth, clearance = Warmth(volume), Clearance(volume, around.digest_of)
    ledger = volume.read_ledger()
    volume.clean_staging(config.load)
    world = restore(config, ledger, driver.read_boot(), time.monotonic())
    if ledger.standing is not None:
        clearance.adopt({ledger.standing: find_digest(world, ledger.standing)})
    server = _wrap(driver, config, volume, warmth, clearance)
    return ModelState(world, volume, server, source, warmth=warmth, clearance=clearance)


def _go_on(before: ModelState, config: Config, driver: Server, source: ModelSource) -> ModelState:
    config_before = before.world.config
    if config.warmup and not driver.warms_itself:
        before.warmth.adopt(before.world.server.ready)
    world = reconfigure(before.world, config, time.monotonic())
    before.clearance.adopt({version: find_digest(world, version) for version in world.server.ready})
    server = _wrap(driver, config, before.volume, before.warmth, before.clearance)
    model = ModelState(world, before.volume, server, source, warmth=before.warmth, clearance=before.clearance)
    if (config.runtime, config.settings) == (config_before.runtime, config_before.settings):
        model.descriptions = before.descriptions
    if config.source == config_before.source:
        model.listing = replace(before.listing, next_at=None)
    return model


def _wrap(driver: Server, config: Config, volume: ModelVolume, warmth: Warmth, clearance: Clearance) -> Server:
    """The driver behind the proofs that the configuration asks for."""
    server = driver
    if config.warmup and not driver.warms_itself:
        server = WarmingServer(server, config.warmup, config.served, warmth)
    if config.golden is not None and config.served is not None:
        server = GoldenServer(server, config.golden, config.served, volume, clearance)
    return server


def find_digest(world: World, version: int) -> str | None:
    published = world.published.get(version)
    return published.sha256 if published is not None else None
