"""The environment images that this repository carries, built on the base image when their content has changed."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import docker
from docker.errors import APIError, BuildError, ImageNotFound
from docker.models.images import Image

from deploy.base_image import custom_certificates
from deploy.instance import REPOSITORY
from deploy.progress import StepError

ENVIRONMENT_IMAGE = "remotegpu/base:1"
_CONTEXT = REPOSITORY / "images" / "base"
_LABEL = "remotegpu.content"


def ensure_environment_image(
    client: docker.DockerClient, *, base: str, authority: Path | None = None, reference: str = ENVIRONMENT_IMAGE
) -> str:
    """Build `reference` from images/base on `base`, unless it was built from the very same; returns what was done.

    `authority` is a certificate that the image is to trust: the one who signed the platform's.

    Raises:
        StepError: the build failed; the message carries the end of its output.
    """
    content = _content_hash(client, base, authority)
    present = _image(client, reference)
    if present is not None and present.labels.get(_LABEL) == content:
        return f"{reference} is there"
    # The one before, which may have been loaded from a file, lends its layers: often no package index is needed.
    cache = [reference] if present is not None else None
    with tempfile.TemporaryDirectory(prefix="remotegpu-image-") as directory:
        context = Path(directory) / "context"
        shutil.copytree(_CONTEXT, context)
        certificates = context / "certificates"
        certificates.mkdir(exist_ok=True)
        for path in custom_certificates():
            shutil.copy(path, certificates)
        _copy_authority(authority, context / "authority")
        try:
            # The host's network: an engine with no bridge of its own builds too, and local mirrors can be reached.
            client.images.build(
                path=str(context), tag=reference, buildargs={"BASE": base}, labels={_LABEL: content},
                network_mode="host", rm=True, forcerm=True, cache_from=cache,
            )  # fmt: skip
        except BuildError as error:
            output = "".join(str(entry.get("stream", "")) for entry in error.build_log)
            raise StepError(f"building {reference} failed: {error}\n{output[-2000:]}") from error
        except APIError as error:
            raise StepError(f"building {reference} failed: {error}") from error
    return f"built {reference}"


def _image(client: docker.DockerClient, reference: str) -> Image | None:
    try:
        return client.images.get(reference)
    except ImageNotFound:
        return None


def _copy_authority(authority: Path | None, directory: Path) -> None:
    directory.mkdir()
    if authority is not None:
        shutil.copy(authority, directory / "platform.crt")  # update-ca-certificates takes no other ending


def _content_hash(client: docker.DockerClient, base: str, authority: Path | None) -> str:
    """Over everything that goes into the image: the base, our files, certificates."""
    digest = hashlib.sha256()
    digest.update(str(client.images.get(base).id).encode())
    files = [path for path in sorted(_CONTEXT.rglob("*")) if path.is_file()]
    for path in [*files, *custom_certificates(), *([authority] if authority else [])]:
        digest.update(f"\0{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
