"""The files that make a folder a TorchServe model and a server a configured one. Pure: text in, text out.

- The manifest decides a version's number and nothing else can, so it is written anew with the folder's number.
- `model-config.yaml` in a model wins over what the server's own configuration says of workers and batches. So what the
  spec sets is written there, line by line, and everything else in it stays. A model without one gets one.
- `config.properties`: ports, defaults, and in `load_models` the versions that a starting server loads.
- `log4j2.xml`: the console for people, and the workers' words in a small file for the agent.

Facts read in the classes of TorchServe 0.12.0.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from slipway_agent.config import parse_version
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.model.untrusted_json import parse_json
from slipway_agent.servers.local_http import WORDS_LIMIT

MANIFEST = "MAR-INF/MANIFEST.json"
MODEL_CONFIG = "model-config.yaml"
PROPERTIES, LOGGING = "config.properties", "log4j2.xml"
LOG_NAME = "workers.log"
_NO_VERSION = "none"


@dataclass(frozen=True, slots=True)
class TorchServeSpec:
    """What the user's spec and the operator say, one field for each that agent.json has. None: say nothing; the model's
    own, else the server's default.

    `default_workers`: of each version whose model and spec name no number. `log_folder`: where the server
    writes and the agent reads: a volume of its own in the pod, and in pods of older releases a folder of its one /tmp.
    """

    http_port: int = 8080
    metrics_port: int = 8082
    management_port: int = 8083
    grpc_port: int = 7070
    grpc_management_port: int = 7071
    grpc_connection_age_milliseconds: int = 2000
    workers: int | None = None
    default_workers: int = 1
    max_batch_size: int | None = None
    max_batch_delay_milliseconds: int | None = None
    response_timeout_seconds: int = 600
    startup_timeout_seconds: int = 600
    gpu_count: int = 0
    log_folder: str = "/tmp/torchserve"  # noqa: S108 - the mount of a volume


@dataclass(frozen=True, slots=True)
class Manifest:
    """A completed manifest: its text, the model's own configuration file, and the version that it said before."""

    text: str
    config_file: str
    said: str | None


def complete_manifest(kept: str, model: str, version: int) -> Manifest:
    """MANIFEST.json with this model's name and number. SpecError(ModelInvalid) for another text.

    `modelVersion` "1.0" in folder 3 becomes "3", and `said` is "1.0"; "3" and "3.0" there say the same, `said` is None.
    """
    try:
        manifest = parse_json(kept)
    except ValueError as cause:
        raise _invalid(MANIFEST, f"it is not JSON: {cause}") from cause
    section = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(section, dict):
        raise _invalid(MANIFEST, "it has no object `model`")
    config_file = section.get("configFile") or MODEL_CONFIG
    if not isinstance(config_file, str) or config_file.startswith("/") or ".." in config_file.split("/"):
        raise _invalid(MANIFEST, f"model.configFile is {config_file!r}, which is no path in the model's folder")
    said = section.get("modelVersion")
    is_other = said is not None and str(said) not in (str(version), f"{version}.0")
    changed = section | {"modelName": model, "modelVersion": str(version), "configFile": config_file}
    text = json.dumps(manifest | {"model": changed}, indent=2)
    return Manifest(text, config_file, str(said) if is_other else None)


def complete_model_config(kept: str, spec: TorchServeSpec) -> str:
    """model-config.yaml with what the spec sets, and with defaults for what neither sets; other lines stay.

    With the file there, TorchServe takes defaults of its own for what it doesn't name, and not the server's: 1 worker,
    120 seconds. `kept` is empty where there was none.
    "batchSize: 2 # mine" with a spec of 8 becomes "batchSize: 8"; a key below another one is another key.
    """
    if kept.lstrip().startswith("{"):
        try:
            mapping = parse_json(kept)
        except ValueError as cause:
            what = "it is one mapping in braces, which can't be completed. Write one key a line"
            raise _invalid(MODEL_CONFIG, what) from cause
        return json.dumps(mapping | _wanted_keys(mapping, spec), indent=2) + "\n"
    lines = kept.splitlines()
    wanted = _wanted_keys([key for key in map(_key_of, lines) if key is not None], spec)
    lines = [line for line in lines if _key_of(line) not in wanted]
    while lines and lines[-1].strip() in ("", "..."):
        lines.pop()
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in wanted.items())]) + "\n"


def _wanted_keys(named: Collection[str], spec: TorchServeSpec) -> dict[str, int]:
    """What model-config.yaml must say; `named`: the keys that it names already."""
    wanted: dict[str, int] = {}
    if spec.workers is not None:
        wanted |= {"minWorkers": spec.workers, "maxWorkers": spec.workers}
    elif not {"minWorkers", "maxWorkers"} & set(named):
        wanted |= {"minWorkers": spec.default_workers, "maxWorkers": spec.default_workers}
    if spec.max_batch_size is not None:
        wanted["batchSize"] = spec.max_batch_size
    if spec.max_batch_delay_milliseconds is not None:
        wanted["maxBatchDelay"] = spec.max_batch_delay_milliseconds
    if "responseTimeout" not in named:
        wanted["responseTimeout"] = spec.response_timeout_seconds
    if "startupTimeout" not in named:
        wanted["startupTimeout"] = spec.startup_timeout_seconds
    return wanted


def compose_properties(model: str, paths: Mapping[int, str], served_first: Sequence[int], spec: TorchServeSpec) -> str:
    """config.properties for a server that loads these versions when it starts; the first becomes the default one.

    Tokens are off because they would be asked of the model's clients too: what they protect is the management API, and
    that listens on the pod's loopback alone (CVE-2023-43654, CVE-2024-35199). `allowed_urls` leaves it no URL to fetch
    from (CVE-2024-35198): a folder's path isn't a URL.
    """
    models = ",".join(f"{model}={paths[version]}" for version in served_first)
    return (
        "# Written by Slipway's agent.\n"
        f"inference_address=http://0.0.0.0:{spec.http_port}\n"
        f"management_address=http://127.0.0.1:{spec.management_port}\n"
        f"metrics_address=http://0.0.0.0:{spec.metrics_port}\n"
        "grpc_inference_address=0.0.0.0\n"
        f"grpc_inference_port={spec.grpc_port}\n"
        "grpc_management_address=127.0.0.1\n"
        f"grpc_management_port={spec.grpc_management_port}\n"
        f"grpc_inference_max_connection_age_ms={spec.grpc_connection_age_milliseconds}\n"
        "disable_token_authorization=true\n"
        "enable_model_api=true\n"
        "allowed_urls=none\n"
        "enable_envvars_config=true\n"
        "install_py_dep_per_model=false\n"
        "metrics_mode=prometheus\n"
        f"number_of_gpu={spec.gpu_count}\n"
        f"default_workers_per_model={spec.default_workers}\n"
        "job_queue_size=1000\n"
        "max_request_size=104857600\n"
        "max_response_size=104857600\n"
        f"load_models={models or _NO_VERSION}\n"
    )


def read_properties(written: str) -> frozenset[int]:
    """The versions that the agent's config.properties loads at a start; empty for another text."""
    line = next((each for each in written.splitlines() if each.startswith("load_models=")), "")
    entries = line.removeprefix("load_models=").split(",")
    versions = (parse_version(entry.rpartition("/")[2]) for entry in entries)
    return frozenset(version for version in versions if version is not None)


def compose_logging(log_folder: str) -> str:
    """log4j2.xml. What TorchServe logs of every request, and the files that it would fill /tmp with, are left out."""
    file = f"{log_folder}/{LOG_NAME}"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="console" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{{ISO8601}} [%-5p] %t %c{{1}} - %m%n"/>
    </Console>
    <RollingFile name="workers" fileName="{file}" filePattern="{file}.%i" append="false">
      <PatternLayout pattern="%t %m%n"/>
      <SizeBasedTriggeringPolicy size="2 MB"/>
      <DefaultRolloverStrategy max="1"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="warn"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="org.pytorch.serve.wlm" level="warn"/>
    <Logger name="org.pytorch.serve.wlm.ModelManager" level="info"/>
    <Logger name="MODEL_LOG" level="info">
      <RegexFilter regex="Backend received inference at: .*" onMatch="DENY" onMismatch="NEUTRAL"/>
      <AppenderRef ref="workers"/>
    </Logger>
    <Root level="info">
      <AppenderRef ref="console"/>
    </Root>
  </Loggers>
</Configuration>
"""


def find_words(log: str, model: str, version: int) -> str | None:
    """What the workers of one version said when they failed to load it: the errors that their tracebacks end with.

    The first says why; the last is added where it says something else. None: no such traceback. Those of predictions
    that failed are no part of it.
    """
    errors: list[str] = []
    is_about_load = is_inside = is_error = False
    for line in _said_by(log, model, version):
        if line.startswith("Traceback (most recent call last)"):
            is_inside, is_error = True, False
        elif is_inside and not line.startswith(" "):
            if is_about_load:
                errors.append(line)
            is_inside, is_error = False, is_about_load
        elif line.startswith(_LOAD_OPENINGS):
            is_about_load, is_error = True, False
        elif line.startswith(_OTHER_OPENINGS):
            is_about_load = is_error = False
        elif is_error and line.strip() and not line.startswith(_CHAIN):
            if len(errors[-1]) < WORDS_LIMIT:  # a handler may go on for ever: each line would copy all before it
                errors[-1] += f" {line.strip()}"  # torch's errors have many lines
        elif not is_inside:
            is_error = False
    own = [error for error in errors if error not in _ECHOES]
    if not own:
        return errors[0] if errors else None
    first = own[0]
    # a handler that can't be imported is looked for among TorchServe's own, which adds nothing
    last = own[-1] if "ts.torch_handler" not in own[-1] else first
    return first if last == first else f"{first}; then {last}"


# what the worker says when it ends of an error that it has said already
_ECHOES = ("RuntimeError: 500 - Unknown exception", "RuntimeError: 507 - System out of memory")
_LOAD_OPENINGS = ("Backend worker process died", "Failed to load model", "Load model ")
_OTHER_OPENINGS = ("Invoking custom service failed", "Prediction error", "System out of memory", "CUDA out of memory")
_CHAIN = ("During handling of", "The above exception was")


def count_starts(log: str, model: str, version: int) -> int:
    """How many workers of one version have begun."""
    return _said_by(log, model, version).count("Torch worker started.")


def _said_by(log: str, model: str, version: int) -> list[str]:
    thread = re.compile(rf"W-\d+-{re.escape(model)}_{version}-stdout (.*)")
    return [found[1] for line in log.splitlines() if (found := thread.fullmatch(line))]


def _key_of(line: str) -> str | None:
    found = re.match(r"""["']?([A-Za-z_]\w*)["']?\s*:""", line)
    return found[1] if found else None


def _invalid(name: str, what: str) -> SpecError:
    return SpecError(Reason.MODEL_INVALID, f"the model's {name} can't be used: {what}")


def order_versions(versions: Collection[int], served: int | None) -> list[int]:
    """The served version first, or without it the newest: the first one registered gets the unversioned requests."""
    return sorted(versions, key=lambda version: (version != served, -version))
