"""oci:// against a real registry: images and artifacts, with and without a network that fails."""

import base64
import gzip
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway_agent.config import Source
from slipway_agent.model.errors import CancelledError, Reason, SpecError, TransientError, UnchangedError
from slipway_agent.model.limits import Limits
from slipway_agent.sources.base import Fetched, Progress
from slipway_agent.sources.oci import OciSource, Reference, parse_reference
from slipway_agent.volume.digest import digest_path
from tests.storage.faults import Answer, Faults, proxy
from tests.storage.outcome import content, refusal
from tests.storage.pushing import INDEX, Entries, Pusher, entries
from tests.storage.servers import Registry, basic, run_registry

LARGE = os.urandom(3 << 20)


@pytest.fixture
def push(registry: Registry) -> Pusher:
    return Pusher(registry)


@pytest.fixture
def place(registry: Registry, prefix: str) -> Source:
    return Source(f"oci://{registry.host}/{prefix}", None, {3: "v3"})


@pytest.fixture
def faulty(registry: Registry) -> Iterator[Faults]:
    with proxy(registry.url) as faults:
        yield faults


def source_of(place: Source, read_seconds: float = 5.0) -> OciSource:
    return OciSource(place, read_seconds)


def fetch(place: Source, staging: Path, version: int = 3, refused: str | None = None) -> Fetched:
    return source_of(place).fetch(version, staging, Progress(), refused)


# what is pulled


def test_an_images_layers_become_one_folder(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    first = push.layer(prefix, Entries().add_file("models/model.onnx", b"old").add_file("models/gone", b"x"))
    second = push.layer(
        prefix, Entries().add_file("models/model.onnx", LARGE).add_file("models/.wh.gone"), is_gzip=False
    )
    image = push.image(prefix, "v3", first, second)
    fetched = fetch(place, staging)
    assert content(fetched) == {"model.onnx": LARGE}
    assert fetched.sha256 == digest_path(fetched.path)
    assert fetched.fingerprint == image["digest"]


def test_an_artifacts_files_have_their_names(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    """As `oras push registry/digits:v3 model.onnx labels/en.txt` makes it."""
    files = [push.file(prefix, "model.onnx", LARGE), push.file(prefix, "labels/en.txt", b"zero")]
    push.image(prefix, "v3", *files, artifactType="application/vnd.slipway.model")
    assert content(fetch(place, staging)) == {"model.onnx": LARGE, "labels/en.txt": b"zero"}


def test_an_artifacts_folder_is_unpacked(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    """As `oras push registry/digits:v3 variables/` makes it: a tar.gz with an annotation that says so."""
    packed = gzip.compress(Entries().add_file("variables/data", b"1").tar())
    folder = push.blob(
        prefix,
        packed,
        "application/vnd.oci.image.layer.v1.tar+gzip",
        org__opencontainers__image__title="variables",
        io__deis__oras__content__unpack="true",
    )
    push.image(prefix, "v3", folder, push.file(prefix, "saved_model.pb", b"graph"))
    assert content(fetch(place, staging)) == {"variables/data": b"1", "saved_model.pb": b"graph"}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.cncf.model.weight.v1.tar",
        "application/vnd.kitops.modelkit.model.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ],
)
def test_other_packings_of_models_are_tars_too(
    push: Pusher, place: Source, prefix: str, staging: Path, media_type: str
) -> None:
    packed = entries(model__onnx=b"weights").tar()
    push.image(prefix, "v3", push.blob(prefix, gzip.compress(packed) if "gzip" in media_type else packed, media_type))
    assert content(fetch(place, staging)) == {"model.onnx": b"weights"}


def test_a_raw_weight_file_takes_the_name_that_modelpack_gives_it(
    push: Pusher, place: Source, prefix: str, staging: Path
) -> None:
    layer = push.blob(
        prefix, b"weights", "application/vnd.cncf.model.weight.v1.raw", org__cncf__model__filepath="model.onnx"
    )
    push.image(prefix, "v3", layer)
    assert content(fetch(place, staging)) == {"model.onnx": b"weights"}


def test_of_several_platforms_this_machines_is_pulled(
    push: Pusher, place: Source, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = []
    for architecture in ("amd64", "arm64"):
        layer = push.layer(prefix, entries(model__onnx=architecture.encode()))
        image = push.image(prefix, architecture, layer)
        images.append(image | {"platform": {"os": "linux", "architecture": architecture}})
    index = push.manifest(prefix, "v3", {"schemaVersion": 2, "mediaType": INDEX, "manifests": images})
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    fetched = fetch(place, staging)
    assert content(fetched) == {"model.onnx": b"arm64"}
    assert fetched.fingerprint == index["digest"] == source_of(place).list_versions()[3]
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    message = refusal(lambda: fetch(place, staging), Reason.UNSUPPORTED_ARCHIVE)
    assert "no image for riscv64; it has amd64, arm64" in message


def test_a_digest_names_an_image_for_ever(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    first = push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"first")))
    push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"second")))
    pinned = replace(place, versions={3: first["digest"]})
    assert content(fetch(pinned, staging)) == {"model.onnx": b"first"}
    assert source_of(pinned).list_versions() == {3: first["digest"]}


def test_stamps_are_the_manifests_digests_and_change_with_a_moved_tag(push: Pusher, place: Source, prefix: str) -> None:
    first = push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"first")))
    both = replace(place, versions={3: "v3", 4: "v4"})
    assert source_of(both).list_versions() == {3: first["digest"], 4: None}
    second = push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"second")))
    assert source_of(both).list_versions()[3] == second["digest"] != first["digest"]


def test_bytes_that_were_refused_are_not_pulled_twice(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    image = push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"first")))
    with pytest.raises(UnchangedError):
        fetch(faulty_place, staging, refused=image["digest"])
    assert faulty.bodies("/blobs/") == 0


def test_an_image_that_breaks_a_limit_is_told_with_its_field_and_not_pulled_again(
    push: Pusher, place: Source, prefix: str, staging: Path
) -> None:
    image = push.image(prefix, "v3", push.layer(prefix, entries(model__onnx=b"first")))
    small = replace(place, limits=Limits(unpacked_bytes=1))
    with pytest.raises(
        SpecError, match=r"unpacks to at least 5 B, and spec\.storage\.limits\.unpackedSize is 1 B"
    ) as broken:
        fetch(small, staging)
    assert broken.value.fingerprint == image["digest"]


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("oci://ghcr.io/team/digits:v3", Reference("ghcr.io", "team/digits", "v3")),
        ("oci://localhost:5000/digits:1.0-rc", Reference("localhost:5000", "digits", "1.0-rc")),
        (f"oci://r.io/d:v3@sha256:{'a' * 64}", Reference("r.io", "d", f"sha256:{'a' * 64}")),
        ("oci://docker.io/digits:v3", Reference("docker.io", "library/digits", "v3")),
    ],
)
def test_references_are_read(location: str, found: Reference) -> None:
    assert parse_reference(location) == found


@pytest.mark.parametrize("location", ["oci://r.io/Team/d:v", "oci://r.io/d", "oci://r.io/:v", "oci://r.io/d@sha256:ab"])
def test_what_is_no_reference_is_refused(location: str) -> None:
    assert "names no image" in refusal(lambda: parse_reference(location), Reason.SOURCE_NOT_FOUND)


# what goes wrong on the way


def test_a_cut_blob_goes_on_where_it_broke(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", LARGE), push.file(prefix, "more", b"more"))
    faulty.cuts_after_bytes = [10_000_000, 1_000_000, 700_000]  # the first is the manifest
    for _ in range(2):
        with pytest.raises(TransientError, match="goes on from there"):
            fetch(faulty_place, staging)
        faulty.cuts_after_bytes[:0] = [10_000_000]
    faulty.cuts_after_bytes = []
    assert content(fetch(faulty_place, staging)) == {"model.onnx": LARGE, "more": b"more"}
    ranges = [headers.get("Range") for path, headers in faulty.requests if "/blobs/" in path]
    assert ranges[:3] == [None, "bytes=1000000-", "bytes=1700000-"]


def test_a_moved_tag_starts_anew(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", LARGE))
    faulty.cuts_after_bytes = [10_000_000, 1_000_000]
    with pytest.raises(TransientError):
        fetch(faulty_place, staging)
    push.image(prefix, "v3", push.file(prefix, "model.onnx", LARGE[::-1]))
    assert content(fetch(faulty_place, staging)) == {"model.onnx": LARGE[::-1]}


def test_other_bytes_than_the_manifest_names_are_never_used(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))

    def forge(path: str) -> None:
        if "/blobs/" in path:
            faulty.answers = [Answer(200, b"WEIGHTS")]

    faulty.on_request = forge
    with pytest.raises(TransientError, match="other bytes than sha256:"):
        fetch(faulty_place, staging)
    faulty.on_request = None
    assert content(fetch(faulty_place, staging)) == {"model.onnx": b"weights"}


def test_another_manifest_than_the_digest_names_is_never_used(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    image = push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))
    faulty.answers = [Answer(200, b'{"layers": []}')]
    with pytest.raises(TransientError, match="other bytes than sha256:"):
        fetch(replace(faulty_place, versions={3: image["digest"]}), staging)


def test_a_pull_is_called_off_at_once_though_the_registry_stalls(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", LARGE))
    progress = Progress()

    def stall(path: str) -> None:
        if "/blobs/" in path:
            faulty.stall_seconds = 20.0
            threading.Timer(0.3, progress.cancel).start()

    faulty.on_request = stall
    began = time.monotonic()
    with pytest.raises(CancelledError):
        source_of(faulty_place, 30.0).fetch(3, staging, progress, None)
    assert time.monotonic() - began < 10


def test_a_registry_that_is_busy_is_asked_again_when_it_says(
    faulty_place: Source, faulty: Faults, staging: Path
) -> None:
    faulty.answers = [Answer(503, headers=(("Retry-After", "7"),))]
    with pytest.raises(TransientError, match="503") as failure:
        fetch(faulty_place, staging)
    assert failure.value.retry_after_seconds == 7.0


def test_blobs_are_followed_to_another_host_without_credentials(
    push: Pusher, faulty_place: Source, faulty: Faults, registry: Registry, prefix: str, staging: Path, tmp_path: Path
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "username").write_text("ada")
    (secret / "password").write_text("lovelace")
    with proxy(registry.url) as elsewhere:

        def send_away(path: str) -> None:
            if "/blobs/" in path:
                faulty.answers = [Answer(307, headers=(("Location", f"{elsewhere.url}{path}"),))]
            elif not faulty.requests[-1][1].get("Authorization"):
                faulty.answers = [Answer(401, headers=(("WWW-Authenticate", 'Basic realm="models"'),))]

        faulty.on_request = send_away
        opened = replace(faulty_place, credentials=str(secret), secret_name="login")
        assert content(fetch(opened, staging)) == {"model.onnx": b"weights"}
        assert faulty.requests[1][1]["Authorization"] == basic("ada", "lovelace")
        assert len(elsewhere.requests) == 1
        assert "Authorization" not in elsewhere.requests[0][1]


def test_a_missing_tag_and_a_missing_registry_are_named(place: Source, staging: Path) -> None:
    message = refusal(lambda: fetch(place, staging), Reason.VERSION_NOT_FOUND)
    assert f"{place.uri}:v3 was asked for: it isn't there" in message
    assert "version 4 has no tag" in refusal(lambda: fetch(place, staging, 4), Reason.VERSION_NOT_FOUND)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 can't be reached"):
        fetch(replace(place, uri="oci://127.0.0.1:1/digits"), staging)


def test_http_is_for_the_loopback_and_a_written_endpoint_alone(place: Source, staging: Path) -> None:
    elsewhere = replace(place, uri=place.uri.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(TransientError):
        fetch(elsewhere, staging)


def test_a_model_larger_than_the_disk_is_refused_before_it_is_pulled(
    push: Pusher, faulty_place: Source, faulty: Faults, prefix: str, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))
    monkeypatch.setattr("slipway_agent.volume.models_volume.SPARE_BYTES", 2**60)
    refusal(lambda: fetch(faulty_place, staging), Reason.DISK_FULL)
    assert faulty.bodies("/blobs/") == 0


@pytest.mark.parametrize("name", ["../../escaped", "a/../../../escaped"])
def test_a_title_that_leads_out_is_refused(
    push: Pusher, place: Source, prefix: str, staging: Path, tmp_path: Path, name: str
) -> None:
    push.image(prefix, "v3", push.file(prefix, name, b"weights"))
    refusal(lambda: fetch(place, staging), Reason.UNSAFE_PATH)
    assert not list(tmp_path.rglob("escaped"))


def test_a_layer_of_an_unknown_kind_is_named(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    push.image(prefix, "v3", push.blob(prefix, b"chart", "application/vnd.cncf.helm.chart.content.v1"))
    assert "application/vnd.cncf.helm.chart.content.v1" in refusal(
        lambda: fetch(place, staging), Reason.UNSUPPORTED_ARCHIVE
    )
    push.image(prefix, "v3")
    assert "holds no layer" in refusal(lambda: fetch(place, staging), Reason.NO_MODEL_FILE)


# who asks


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("guarded"), "ada", "love:lace") as server:
        yield server


@pytest.fixture
def guarded_place(guarded: Registry, prefix: str, tmp_path: Path) -> Source:
    push = Pusher(guarded)
    push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))
    (tmp_path / "login").mkdir()
    return Source(
        f"oci://{guarded.host}/{prefix}",
        None,
        {3: "v3"},
        credentials=str(tmp_path / "login"),
        secret_name="registry-login",
    )


def write(place: Source, **values: str) -> None:
    assert place.credentials is not None
    for name, value in values.items():
        (Path(place.credentials) / name.replace("dot_", ".")).write_text(value)


def docker_config(host: str, **entry: str) -> str:
    return json.dumps({"auths": {"elsewhere.io": {"auth": "eA=="}, host: entry}})


def test_a_user_and_password_open_a_registry(guarded_place: Source, staging: Path) -> None:
    write(guarded_place, username="ada\n", password="love:lace")
    assert content(fetch(guarded_place, staging)) == {"model.onnx": b"weights"}
    assert list(source_of(guarded_place).list_versions()) == [3]


@pytest.mark.parametrize("form", ["auth", "words", "url"])
def test_a_docker_config_opens_a_registry(guarded: Registry, guarded_place: Source, staging: Path, form: str) -> None:
    words = {"username": "ada", "password": "love:lace"}
    entry = words if form == "words" else {"auth": base64.b64encode(b"ada:love:lace").decode()}
    host = f"https://{guarded.host}/v1/" if form == "url" else guarded.host
    write(guarded_place, dot_dockerconfigjson=docker_config(host, **entry))
    assert content(fetch(guarded_place, staging)) == {"model.onnx": b"weights"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {},
            "isn't there, or has no keys; oci:// needs .dockerconfigjson, or username and password",
        ),
        ({"username": "ada", "password": "wrong"}, "401 Unauthorized"),
        ({"dot_dockerconfigjson": "{"}, "can't be read"),
        ({"dot_dockerconfigjson": docker_config("other.io")}, "has no entry for 127.0.0.1"),
    ],
)
def test_a_secret_that_opens_nothing_is_named_until_it_is_right(
    guarded_place: Source, staging: Path, values: dict[str, str], words: str
) -> None:
    write(guarded_place, **values)
    source = source_of(guarded_place)
    for act in (source.list_versions, lambda: source.fetch(3, staging, Progress(), None)):
        message = refusal(act, Reason.ACCESS_DENIED)
        assert words in message
        assert "registry-login" in message
    write(guarded_place, username="ada", password="love:lace")
    assert content(source.fetch(3, staging, Progress(), None)) == {"model.onnx": b"weights"}


def test_without_a_secret_a_guarded_registry_says_what_to_do(guarded_place: Source, staging: Path) -> None:
    anonymous = replace(guarded_place, credentials=None, secret_name=None)
    assert "name a Secret in storage.secretRef" in refusal(lambda: fetch(anonymous, staging), Reason.ACCESS_DENIED)


@pytest.mark.parametrize("has_login", [True, False])
def test_a_token_is_fetched_from_the_realm_and_renewed(
    push: Pusher,
    faulty_place: Source,
    faulty: Faults,
    prefix: str,
    staging: Path,
    tmp_path: Path,
    has_login: bool,
) -> None:
    """The token flow of Docker Hub, GHCR and others."""
    push.image(prefix, "v3", push.file(prefix, "model.onnx", b"weights"))
    (tmp_path / "login").mkdir()
    place = replace(faulty_place, credentials=str(tmp_path / "login")) if has_login else faulty_place
    if has_login:
        write(place, username="ada", password="lovelace")
    valid = ["one"]
    with proxy("http://127.0.0.1:1") as realm:
        challenge = f'Bearer realm="{realm.url}/token",service="models",scope="repository:{prefix}:pull"'

        def guard(path: str) -> None:
            if faulty.requests[-1][1].get("Authorization") != f"Bearer {valid[0]}":
                faulty.answers = [Answer(401, headers=(("WWW-Authenticate", challenge),))]

        faulty.on_request = guard
        realm.on_request = lambda path: realm.answers.append(Answer(200, json.dumps({"token": valid[0]}).encode()))
        source = source_of(place)
        assert content(source.fetch(3, staging, Progress(), None)) == {"model.onnx": b"weights"}
        assert len(realm.requests) == 1
        assert "service=models" in realm.paths[0]
        assert realm.requests[0][1].get("Authorization") == (basic("ada", "lovelace") if has_login else None)
        valid[0] = "two"
        assert list(source.list_versions()) == [3]
        assert len(realm.requests) == 2


def test_an_image_that_holds_too_much_is_named(push: Pusher, place: Source, prefix: str, staging: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("models/../../x"))
    push.image(prefix, "v3", push.blob(prefix, packed.getvalue(), "application/vnd.oci.image.layer.v1.tar"))
    assert "leads out of the image" in refusal(lambda: fetch(place, staging), Reason.UNSAFE_PATH)
