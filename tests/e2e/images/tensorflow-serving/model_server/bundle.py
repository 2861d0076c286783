"""One loaded version: the SavedModel's graph in a session, its signatures, and the batches that it may run in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2

from model_server.batching import Batcher, BatchLimits
from model_server.status import StatusError, explain, not_found

v1 = tf.compat.v1
Array = np.ndarray[Any, Any]


class Bundle:
    """`limits`: how requests are batched; None: each runs alone. Raises StatusError when it can't be loaded."""

    def __init__(self, path: Path, session_config: config_pb2.ConfigProto, limits: BatchLimits | None) -> None:
        _require_loadable(path)
        self._session = v1.Session(graph=tf.Graph(), config=session_config)
        try:
            with self._session.graph.as_default():
                loaded: meta_graph_pb2.MetaGraphDef = v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], str(path)
                )
        except Exception as cause:
            self._session.close()
            raise explain(cause) from cause
        self.signatures = dict(sorted(loaded.signature_def.items()))
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Array]]] = {}
        self._lock = threading.Lock()
        self._batcher = None if limits is None else Batcher(limits, self._run_now)
        self._running = 0
        self._idle = threading.Condition()

    def run(self, feeds: dict[str, Array], fetches: Sequence[str]) -> list[Array]:
        """The tensors named by `fetches`. Raises StatusError."""
        with self._idle:
            self._running += 1
        try:
            names = tuple(sorted(feeds))
            if self._batcher is None:
                return self._run_now((names, tuple(fetches)), [feeds[name] for name in names])
            return self._batcher.run((names, tuple(fetches)), [feeds[name] for name in names])
        except StatusError:
            raise
        except Exception as cause:
            raise explain(cause) from cause
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """After what runs has ended."""
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)
        if self._batcher is not None:
            self._batcher.close()
        self._session.close()

    def _run_now(self, key: tuple[tuple[str, ...], tuple[str, ...]], inputs: Sequence[Array]) -> list[Array]:
        with self._lock:
            call = self._callables.get(key)
            if call is None:
                # Not Session.run: that one checks shapes in Python, with words that no server says.
                options = config_pb2.CallableOptions(feed=key[0], fetch=key[1])
                call = self._callables[key] = self._session._make_callable_from_options(options)
        return call(*inputs)


def _require_loadable(path: Path) -> None:
    """The loader's own refusals, which Python words differently."""
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    if not binary.is_file():
        if text.is_file():
            return
        raise not_found(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}. Check that the "
            "directory exists and that you have the right permissions for accessing it."
        )
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(binary.read_bytes())
    except DecodeError as cause:
        raise StatusError("DATA_LOSS", f"Can't parse {binary} as binary proto") from cause
    if not any(set(graph.meta_info_def.tags) == {tf.saved_model.SERVING} for graph in saved.meta_graphs):
        raise not_found(
            "Could not find meta graph def matching supplied tags: { serve }. To inspect available tag-sets in the "
            "SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        )
