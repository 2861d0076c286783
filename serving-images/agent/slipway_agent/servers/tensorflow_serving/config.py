"""The files that TensorFlow Serving reads: models, monitoring and batching, in protobuf's text form. Pure.

Facts (docs/serving_config.md; server_core.cc): the server puts into force what the model file says and nothing else;
labels are checked before anything is loaded, and a file with a label that it refuses changes nothing at all.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from slipway_agent.config import parse_version
from slipway_agent.servers import textproto

MODELS_FILE, MONITORING_FILE, BATCHING_FILE = "models.config", "monitoring.config", "batching.config"
METRICS_PATH = "/monitoring/prometheus/metrics"
ENQUEUED_BATCHES = 100  # waiting, for each thread: TensorFlow Serving's own 10 in all answer a burst with UNAVAILABLE
BATCH_THREADS = 4  # where no CPU limit says better; the server's own default counts the node's cores


@dataclass(frozen=True, slots=True)
class TensorFlowServingSpec:
    """What the operator says about the server. None: no batching, or nothing known."""

    http_port: int = 8501
    max_batch_size: int | None = None
    max_delay_microseconds: int | None = None
    batch_threads: int | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the agent's model file says. Empty for another text."""

    versions: frozenset[int] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)


def compose_models(model: str, base_path: str, versions: Collection[int], labels: Mapping[str, int]) -> str:
    """The file for exactly these versions, with these labels on them."""
    specific = textproto.message(*(("versions", textproto.number(version)) for version in sorted(versions)))
    config = textproto.message(
        ("name", textproto.text(model)),
        ("base_path", textproto.text(base_path)),
        ("model_platform", textproto.text("tensorflow")),
        ("model_version_policy", textproto.message(("specific", specific))),
        *(
            ("version_labels", textproto.message(("key", textproto.text(label)), ("value", textproto.number(version))))
            for label, version in sorted(labels.items())
        ),
    )
    return textproto.print_message(textproto.message(("model_config_list", textproto.message(("config", config)))))


def read_models(written: str) -> ModelConfig:
    """The versions and labels of a file that `compose_models` made."""
    try:
        config = _below(_below(textproto.parse(written), "model_config_list"), "config")
    except textproto.TextProtoError:
        return ModelConfig()
    specific = _below(_below(config, "model_version_policy"), "specific")
    words = (each.value.word for each in specific.named("versions") if isinstance(each.value, textproto.Scalar))
    versions = (parse_version(word) for word in words)
    labels = {}
    for each in config.named("version_labels"):
        if isinstance(each.value, textproto.Message):
            key, value = each.value.first("key"), each.value.first("value")
            if isinstance(key, textproto.Scalar) and isinstance(value, textproto.Scalar):
                version = parse_version(value.word)
                if version is not None:
                    labels[_unquoted(key.word)] = version
    return ModelConfig(frozenset(version for version in versions if version is not None), labels)


def _unquoted(word: str) -> str:
    """The text that `textproto.text` wrote as this word."""
    return word[1:-1].replace('\\"', '"').replace("\\\\", "\\")


def _below(message: textproto.Message, name: str) -> textproto.Message:
    value = message.first(name)
    return value if isinstance(value, textproto.Message) else textproto.Message()


def choose_labels(
    wanted: Mapping[str, int], written: Mapping[str, int], available: Collection[int], named: Collection[int]
) -> dict[str, int]:
    """Where each label may stand now: at its version once that is available; until then, if it is on its way (`named`
    by the operator), where it stood. Any other stays out: the server would refuse the whole file.

    >>> choose_labels({"stable": 3, "canary": 4, "old": 1}, {"stable": 2, "old": 2}, {2, 4}, {2, 3, 4})
    {'stable': 2, 'canary': 4}
    """
    chosen = {}
    for label, version in wanted.items():
        before = written.get(label)
        if version in available:
            chosen[label] = version
        elif version in named and before is not None and before in available:
            chosen[label] = before
    return chosen


def compose_monitoring() -> str:
    prometheus = textproto.message(("enable", textproto.Scalar("true")), ("path", textproto.text(METRICS_PATH)))
    return textproto.print_message(textproto.message(("prometheus_config", prometheus)))


def compose_batching(spec: TensorFlowServingSpec) -> str:
    """Empty without batching. `num_batch_threads` is how many batches run side by side."""
    if spec.max_batch_size is None:
        return ""
    threads = spec.batch_threads or BATCH_THREADS
    wrapped = (
        ("max_batch_size", spec.max_batch_size),
        ("batch_timeout_micros", spec.max_delay_microseconds or 0),
        ("num_batch_threads", threads),
        ("max_enqueued_batches", threads * ENQUEUED_BATCHES),
    )
    return textproto.print_message(
        textproto.message(*((name, textproto.message(("value", textproto.number(value)))) for name, value in wrapped))
    )
