"""The distribution's base image: pulled where a registry answers, else bootstrapped from this machine's own mirror."""

import platform
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import httpx
from docker.errors import APIError, DockerException, ImageNotFound

from deploy.apt_sources import AptSource, distribution_source
from deploy.instance import cache_dir
from deploy.progress import StepError
from deploy.shell import execute

PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates", "tini", "procps")
_PULLED = "debian:bookworm-slim"
_REGISTRY = "https://registry-1.docker.io/v2/"
_REGISTRY_S = 5.0
_BOOTSTRAP_S = 900
_CERTIFICATES = Path("/usr/local/share/ca-certificates")


def ensure_base_image(client: docker.DockerClient, *, named: str | None = None) -> tuple[str, str]:
    """The reference of a base image that is there, and how it came to be.

    Raises:
        StepError: none could be had; the message says what was tried.
    """
    if named is not None:
        return named, _ensure_pulled(client, named)
    source = _source_or_none()
    reference = f"debian-bootstrap:{source.suite if source else 'bookworm'}"
    if has_image(client, reference):
        return reference, f"{reference} is there"
    if _registry_answers():
        _ensure_pulled(client, _PULLED)
        reference = "debian-bootstrap:bookworm"
        _add_packages(client, _PULLED, reference)
        return reference, f"from {_PULLED}"
    if source is None:
        raise StepError(f"neither {_REGISTRY} nor a repository of apt can be used: name an image with --base-image")
    archive = _bootstrap(source)
    with archive.open("rb") as data:
        client.api.import_image_from_data(data, repository="debian-bootstrap", tag=source.suite)
    return reference, f"debootstrap of {source.suite} from {source.uri}"


def has_image(client: docker.DockerClient, reference: str) -> bool:
    try:
        client.images.get(reference)
    except ImageNotFound:
        return False
    return True


def custom_certificates() -> list[Path]:
    """Certificates that this machine's administrator has added to its trust store."""
    return sorted(_CERTIFICATES.rglob("*.crt")) if _CERTIFICATES.is_dir() else []


def _source_or_none() -> AptSource | None:
    try:
        return distribution_source()
    except (StepError, FileNotFoundError):
        return None


def _registry_answers() -> bool:
    try:
        return httpx.get(_REGISTRY, timeout=_REGISTRY_S).status_code in (200, 401)
    except (httpx.HTTPError, OSError):
        return False


def _ensure_pulled(client: docker.DockerClient, reference: str) -> str:
    try:
        if has_image(client, reference):
            return f"{reference} is there"
        client.images.pull(reference)
    except DockerException as error:
        reason = error.explanation if isinstance(error, APIError) and error.explanation else error
        raise StepError(
            f"the image {reference} can't be pulled: {reason}. Is its name right, and root signed in to its registry "
            "(`docker login`)? Else load it with `docker load`, or name another with --base-image"
        ) from error
    return f"pulled {reference}"


def _add_packages(client: docker.DockerClient, parent: str, reference: str) -> None:
    with tempfile.TemporaryDirectory(prefix="remotegpu-base-") as directory:
        for path in custom_certificates():
            shutil.copy(path, directory)
        (Path(directory) / "Dockerfile").write_text(
            f"FROM {parent}\nCOPY . /usr/local/share/ca-certificates/\n"
            f"RUN apt-get update && apt-get install -y --no-install-recommends {' '.join(PACKAGES)} "
            "&& rm -rf /var/lib/apt/lists/* && update-ca-certificates\n"
        )
        client.images.build(path=directory, tag=reference, network_mode="host", rm=True)


def _bootstrap(source: AptSource) -> Path:
    """A tar archive of a minimal system of `source`'s release, kept in the cache."""
    archive = cache_dir() / f"{source.suite}-{platform.machine()}.tar"
    if archive.exists():
        return archive
    cache_dir().mkdir(parents=True, exist_ok=True)
    with _directory() as root:
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        if "universe" in source.components:  # Ubuntu keeps tini and pip there
            command.append("--components=main,universe")
        if source.keyring is not None and source.keyring.suffix == ".gpg" and source.keyring.exists():
            command.append(f"--keyring={source.keyring}")
        execute(
            [*command, source.suite, str(root), source.uri],
            timeout_s=_BOOTSTRAP_S, env={"DEBIAN_FRONTEND": "noninteractive"},
            remedy="Check that the mirror in /etc/apt can be reached, or name an image with --base-image.",
        )  # fmt: skip
        for path in custom_certificates():
            shutil.copy(path, root / "usr/local/share/ca-certificates")
        execute(["chroot", str(root), "update-ca-certificates"], timeout_s=60)
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        temporary = archive.with_suffix(".new")
        with tarfile.open(temporary, "w") as tar:
            tar.add(root, arcname=".")
        temporary.replace(archive)
    return archive


@contextmanager
def _directory() -> Iterator[Path]:
    # Not /tmp: it may be mounted nodev, where debootstrap can't make device nodes.
    path = Path(tempfile.mkdtemp(prefix="bootstrap-", dir=cache_dir()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
