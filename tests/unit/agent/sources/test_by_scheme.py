"""Which URI leads to which source, and what a pod that doesn't use a store doesn't pay for."""

import subprocess
import sys
from pathlib import Path

import pytest

import slipway_agent
from slipway_agent.config import FETCHED_SCHEMES, Config, Source
from slipway_agent.model.errors import Reason, SpecError
from slipway_agent.sources.by_scheme import SCHEMES, open_scheme
from slipway_agent.sources.mounted_folder import PathSource
from slipway_agent.sources.object_store import ObjectSource
from slipway_agent.sources.oci import OciSource


def opened(uri: str, path: str | None = None) -> object:
    return open_scheme(Config("g", "Triton", "digits", Source(uri, path), None, ()), lambda folder: True)


def test_every_scheme_that_the_configuration_takes_has_a_source() -> None:
    assert set(SCHEMES) == set(FETCHED_SCHEMES)


def test_a_uri_leads_to_its_source(tmp_path: Path) -> None:
    assert isinstance(opened("s3://models/digits"), ObjectSource)
    assert isinstance(opened("oci://ghcr.io/team/digits"), OciSource)
    assert isinstance(opened("pvc://models/digits", str(tmp_path)), PathSource)


def test_an_unknown_scheme_is_refused_in_words() -> None:
    with pytest.raises(SpecError, match=r"gs://models/digits can't be fetched.*no source for gs://") as refusal:
        opened("gs://models/digits")
    assert refusal.value.reason is Reason.CONFIG_INVALID


def test_a_library_is_imported_when_its_scheme_is_used_and_not_before() -> None:
    program = (
        "import sys; import slipway_agent.loop.__main__; "
        "print(sorted({'obstore', 'requests', 'slipway_agent.sources.oci'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(slipway_agent.__file__).parents[1])},
    )
    assert "obstore" not in done.stdout
    assert "slipway_agent.sources.oci" not in done.stdout
