"""ONNX Runtime's repository API, for speed: it behaves as serving-images/onnxruntime does, and loads nothing.

A version whose model.onnx says `broken` fails to load, `deadly` ends the server. The real server is met by
tests/e2e/agent.
"""

from collections.abc import Mapping
from typing import Any

from slipway_agent.servers.onnx_runtime import SETTINGS_FILE, read_versions
from tests.unit.agent.servers.fake_http import FakeServer, Said


class FakeOnnxRuntime(FakeServer):
    model_file = "model.onnx"
    loaded: frozenset[int] = frozenset()

    def boot(self) -> None:
        """A version that fails is left out."""
        self.loaded = frozenset(version for version in self._wanted() if self.read(version) != "broken")

    def answer(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Said:
        if path == "/v2/repository/index":
            return 200, [{"name": self.model, "version": str(each), "state": "READY"} for each in self.loaded]
        if path.endswith("/load"):
            return self._load()
        version = int(path.removeprefix(f"/v2/models/{self.model}/versions/").partition("/")[0])
        if version not in self.loaded:
            return 404, {"error": f"version {version} isn't loaded"}
        return (200, {"outputs": []}) if "inputs" in body else (400, {"error": "inputs is missing"})

    def _wanted(self) -> frozenset[int]:
        place = self.folder / SETTINGS_FILE
        return read_versions(place.read_text()) if place.exists() else frozenset()

    def _load(self) -> Said:
        """All or nothing."""
        said = {version: self.read(version) for version in self._wanted()}
        if "deadly" in said.values():
            self.kill()
            return None
        broken = {str(version): "not an ONNX model" for version, content in said.items() if content == "broken"}
        if broken:
            return 400, {"error": "not an ONNX model", "versions": broken}
        self.loaded = frozenset(said)
        return 200, ""
