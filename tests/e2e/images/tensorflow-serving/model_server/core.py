"""What is loaded, and why: configuration, versions found in folders, loads and unloads, labels.

As in server_core.cc, file_system_storage_path_source.cc, availability_preserving_policy.cc and basic_manager.cc:
- A configuration replaces the one before. Its labels are checked, and moved, before anything is loaded; when one can't
  be, nothing else happens.
- Which folders are versions is looked at by a poll of its own; a changed configuration is acted on at its next turn.
- One action at a time and model: unload the lowest version that isn't wanted, once a wanted one serves (or none is
  wanted); else load the highest that is.
- A version that failed stays END with its error until it is no longer wanted; wanted again, it is tried again.
- States are remembered for the server's life.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from model_server.bundle import Bundle
from model_server.journal import say
from model_server.status import StatusError, explain, invalid, not_found, precondition

MANAGE_SECONDS = 0.1
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"


@dataclass(frozen=True, slots=True)
class State:
    name: str
    error: StatusError | None = None


@dataclass(slots=True)
class Harness:
    """One version that the server deals with. `bundle` is there while it can be asked."""

    path: Path
    is_wanted: bool = True
    has_failed: bool = False
    bundle: Bundle | None = None
    users: int = 0
    is_leaving: bool = False


@dataclass(slots=True)
class Model:
    base_path: str
    config: model_server_config_pb2.ModelConfig
    harnesses: dict[int, Harness] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """How loads are tried, and whether labels may stand on what isn't available."""

    max_retries: int
    retry_seconds: float
    allow_labels_for_unavailable: bool
    fail_if_no_versions: bool = False


class Core:
    """`open_bundle`: (path, model, version) → what is loaded; may raise anything."""

    def __init__(self, open_bundle: Callable[[Path, str, int], Bundle], limits: Limits) -> None:
        self._open, self._limits = open_bundle, limits
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._reloading = threading.Lock()
        self._models: dict[str, Model] = {}
        self._states: dict[str, dict[int, State]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._is_configured = False

    # configuration

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Put a configuration into force; waits for models that are new. Raises StatusError."""
        with self._reloading:
            self._reload(config)

    def _reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        kind = config.WhichOneof("config")
        if self._is_configured and kind != "model_config_list":
            raise precondition(
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another."
            )
        if kind is None:
            say("I", "server_core", "Taking no action for empty config.")
            return
        if kind != "model_config_list":
            raise invalid("ModelServer does not yet support custom model config.")
        models = list(config.model_config_list.config)
        _validate(models)
        with self._changed:
            self._move_labels(models)
            say("I", "server_core", "Adding/updating models.")
            new = [model.name for model in models if not self._is_known(model.name)]
            for model in models:
                say("I", "server_core", f" (Re-)adding model: {model.name}")
                known = self._models.setdefault(model.name, Model(model.base_path, model))
                known.base_path, known.config = model.base_path, model
            named = {model.name for model in models}
            for name, known in list(self._models.items()):
                if name not in named:
                    known.base_path = ""
                    self._want(name, known, {})
            is_first, self._is_configured = not self._is_configured, True
            if self._limits.fail_if_no_versions:
                self._require_versions(new)
            if is_first:
                self.poll_folders()
        if new:
            self._await_models(new)
        say("I", "server_core", "Finished adding/updating models")

    def _is_known(self, name: str) -> bool:
        return name in self._models and bool(self._models[name].base_path)

    def _move_labels(self, models: list[model_server_config_pb2.ModelConfig]) -> None:
        chosen: dict[str, dict[str, int]] = {}
        for model in models:
            states = self._states.get(model.name, {})
            for label, version in sorted(model.version_labels.items()):
                existing = self._labels.get(model.name, {}).get(label)
                may_wait = self._limits.allow_labels_for_unavailable and existing in (None, version)
                if not may_wait and states.get(version, State(END)).name != AVAILABLE:
                    raise precondition(
                        f"Request to assign label to version {version} of model {model.name}, which is not currently "
                        "available for inference"
                    )
                chosen.setdefault(model.name, {})[label] = version
        self._labels = chosen

    def _require_versions(self, names: list[str]) -> None:
        for name in names:
            if not self._found(name, self._models[name]):
                raise not_found(
                    f"Unable to find a numerical version path for servable {name} at: {self._models[name].base_path}"
                )

    def _await_models(self, names: list[str]) -> None:
        """Until each has a version that serves. Raises when all that it has failed."""
        with self._changed:
            while True:
                failed = {}
                is_pending = False
                for name in names:
                    states = {
                        version: self._states.get(name, {}).get(version, State(START))
                        for version in self._models[name].harnesses
                    }
                    if any(state.name == AVAILABLE for state in states.values()):
                        continue
                    if states and all(state.name == END and state.error for state in states.values()):
                        failed[name] = states
                    else:
                        is_pending = True
                if failed:
                    each = "".join(
                        f"{{{{name: {name} version: {version}}} due to error: {state.error}}}, "
                        for name, states in failed.items()
                        for version, state in states.items()
                    )
                    raise StatusError("UNKNOWN", f"{len(failed)} servable(s) did not become available: {{{each}}}")
                if not is_pending:
                    return
                self._changed.wait(1.0)

    # versions

    def poll_folders(self) -> None:
        """Look which versions there are, and want those of the policy."""
        with self._changed:
            for name, model in self._models.items():
                if not model.base_path:
                    continue
                try:
                    self._want(name, model, self._found(name, model))
                except OSError as cause:
                    say(
                        "E",
                        "file_system_storage_path_source",
                        "FileSystemStoragePathSource encountered a filesystem access error: Could not find base path "
                        f"{model.base_path} for servable {name} with error NOT_FOUND: {cause.strerror}",
                    )

    def _found(self, name: str, model: Model) -> dict[int, Path]:
        folders = {}
        for entry in sorted(Path(model.base_path).iterdir()):
            if entry.name.lstrip("-").isdigit():
                folders[int(entry.name)] = entry
        policy = model.config.model_version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                chosen = set(folders)
            case "specific":
                chosen = set(policy.specific.versions)
                for version in sorted(chosen - set(folders)):
                    say(
                        "W",
                        "file_system_storage_path_source",
                        f"Version {version} of servable {name}, which was requested to be served as a 'specific' "
                        "version in the servable's version policy, was not found in the file system",
                    )
            case _:
                chosen = set(sorted(folders)[-max(1, policy.latest.num_versions) :])
        found = {version: folders[version] for version in chosen if version in folders}
        if not found:
            say(
                "W",
                "file_system_storage_path_source",
                f"No versions of servable {name} found under base path {model.base_path}. Did you forget to name your "
                "leaf directory as a number (eg. '/1/')?",
            )
        return found

    def _want(self, name: str, model: Model, found: Mapping[int, Path]) -> None:
        for version, harness in list(model.harnesses.items()):
            harness.is_wanted = version in found
            if not harness.is_wanted and harness.bundle is None and not harness.is_leaving:
                del model.harnesses[version]  # it failed, or wasn't begun
        for version, path in found.items():
            if version not in model.harnesses:
                model.harnesses[version] = Harness(path)
                self._set(name, version, State(START))

    def manage(self) -> None:
        """One action for each model."""
        with self._lock:
            names = list(self._models)
        for name in names:
            with self._lock:
                model = self._models[name]
                action = _next_action(model)
                if action is None:
                    if not model.harnesses and not model.base_path:
                        del self._models[name]
                    continue
                verb, version = action
                harness = model.harnesses[version]
            if verb == "unload":
                self._unload(name, model, version, harness)
            else:
                self._load(name, version, harness)

    def _load(self, name: str, version: int, harness: Harness) -> None:
        what = f"{{name: {name} version: {version}}}"
        say("I", "loader_harness", f"Loading servable version {what}")
        self._set(name, version, State(LOADING))
        for attempt in range(self._limits.max_retries + 1):
            if attempt:
                time.sleep(self._limits.retry_seconds)
            try:
                bundle = self._open(harness.path, name, version)
            except Exception as cause:
                error = explain(cause)
                say(
                    "I" if attempt < self._limits.max_retries else "E",
                    "retrier",
                    f"Loading servable: {what} failed: {error}",
                )
                continue
            with self._changed:
                harness.bundle = bundle
            say("I", "loader_harness", f"Successfully loaded servable version {what}")
            self._set(name, version, State(AVAILABLE))
            return
        with self._changed:
            harness.has_failed = True
        say("E", "aspired_versions_manager", f"Servable {what} cannot be loaded: {error}")
        self._set(name, version, State(END, error))

    def _unload(self, name: str, model: Model, version: int, harness: Harness) -> None:
        what = f"{{name: {name} version: {version}}}"
        say("I", "loader_harness", f"Quiescing servable version {what}")
        self._set(name, version, State(UNLOADING))
        with self._changed:
            bundle, harness.bundle, harness.is_leaving = harness.bundle, None, True
            self._changed.wait_for(lambda: harness.users == 0)
        if bundle is not None:
            bundle.close()
        with self._changed:
            del model.harnesses[version]
        say("I", "loader_harness", f"Done unloading servable version {what}")
        self._set(name, version, State(END))

    def _set(self, name: str, version: int, state: State) -> None:
        with self._changed:
            self._states.setdefault(name, {})[version] = state
            self._changed.notify_all()

    # requests

    def states(self, name: str, version: int | None) -> dict[int, State]:
        """Newest first. NOT_FOUND when there never was such a one."""
        with self._lock:
            states = dict(sorted(self._states.get(name, {}).items(), reverse=True))
        if version is not None:
            if version not in states:
                raise not_found(f"Could not find version {version} of model {name}")
            return {version: states[version]}
        if not states:
            raise not_found(f"Could not find any versions of model {name}")
        return states

    @contextmanager
    def bundle(self, name: str, version: int | None, label: str | None) -> Iterator[tuple[int, Bundle]]:
        """The version that was asked for, held for as long as the block lasts."""
        harness, found, bundle = self._take(name, version, label)
        try:
            yield found, bundle
        finally:
            with self._changed:
                harness.users -= 1
                self._changed.notify_all()

    def _take(self, name: str, version: int | None, label: str | None) -> tuple[Harness, int, Bundle]:
        if not name:
            raise invalid("ModelSpec has no name specified.")
        with self._lock:
            if label is not None:
                if label not in self._labels.get(name, {}):
                    raise invalid(f"Unrecognized servable version label: {label}")
                version = self._labels[name][label]
            harnesses = self._models[name].harnesses if name in self._models else {}
            serving = [number for number, harness in harnesses.items() if harness.bundle is not None]
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            if version is None and serving:
                version = max(serving)
            if version not in serving:
                raise not_found(f"Servable not found for request: {asked}")
            harness = harnesses[version]
            harness.users += 1
            assert harness.bundle is not None
            return harness, version, harness.bundle


def _next_action(model: Model) -> tuple[str, int] | None:
    serving = {version: harness for version, harness in model.harnesses.items() if harness.bundle is not None}
    leaving = sorted(version for version, harness in serving.items() if not harness.is_wanted)
    wanted = [version for version, harness in model.harnesses.items() if harness.is_wanted]
    wanted_serves = any(version in serving for version in wanted)
    if leaving and (not wanted or wanted_serves or len(leaving) > 1):
        return "unload", leaving[0]
    new = [
        version
        for version in wanted
        if version not in serving
        and not model.harnesses[version].has_failed
        and not model.harnesses[version].is_leaving
    ]
    return ("load", max(new)) if new else None


def _validate(models: list[model_server_config_pb2.ModelConfig]) -> None:
    seen = set()
    for model in models:
        if model.name in seen:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        seen.add(model.name)
        if not model.model_platform and not model.model_type:
            raise invalid("Illegal setting neither ModelServerConfig::model_type nor model_platform.")
        if model.model_platform not in ("", "tensorflow"):
            raise invalid(f"Model {model.name} requests unsupported platform {model.model_platform}")
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )
