"""An image with PyTorch's CPU build, made once on a machine."""

import shutil
import subprocess
import sys
from pathlib import Path

import docker
from docker.errors import ImageNotFound

BASE = "debian-bootstrap:bookworm"
_TORCH = "torch==2.13.0"
_BUILD_S = 900
_DOCKERFILE = f"""\
FROM {BASE}
COPY wheels /tmp/wheels
RUN pip install --break-system-packages --no-index --no-cache-dir --no-compile --find-links /tmp/wheels torch \\
    && rm -r /tmp/wheels
"""


def ensure_torch_image(directory: Path) -> str:
    """Its reference. `directory` is for what it is built of, if it is."""
    client = docker.from_env()
    try:
        reference = f"remotegpu-test/torch:{_TORCH.rpartition('=')[2]}-{client.images.get(BASE).short_id[7:]}"
        try:
            client.images.get(reference)
        except ImageNotFound:
            _download(directory / "wheels")
            (directory / "Dockerfile").write_text(_DOCKERFILE)
            client.images.build(path=str(directory), tag=reference, rm=True, forcerm=True)
            shutil.rmtree(directory / "wheels")
    finally:
        client.close()
    return reference


def _download(wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", _TORCH, "--dest", str(wheels)]
    subprocess.run([*command, "--only-binary=:all:"], check=True, capture_output=True, timeout=_BUILD_S)
