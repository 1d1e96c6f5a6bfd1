"""JupyterHub's proxy, configurable-http-proxy: installed from hub's lock file into the cache, once per version."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from deploy.instance import REPOSITORY, cache_dir
from deploy.shell import execute

_FILES = ("package.json", "package-lock.json")
_TIMEOUT_S = 300


def proxy_program() -> Path:
    """Where the proxy of this version's lock file is, or will be once installed."""
    digest = hashlib.sha256(b"".join((REPOSITORY / "hub" / name).read_bytes() for name in _FILES))
    return cache_dir() / f"hub-proxy-{digest.hexdigest()[:16]}" / "node_modules" / ".bin" / "configurable-http-proxy"


def ensure_proxy() -> str:
    """Install it where it is missing; it appears whole or not at all."""
    program = proxy_program()
    if program.exists():
        return "is there"
    target = program.parent.parent.parent
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hub-proxy-", dir=cache_dir()) as directory:
        staged = Path(directory) / "staged"
        staged.mkdir()
        for name in _FILES:
            shutil.copy(REPOSITORY / "hub" / name, staged)
        execute(
            ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"], timeout_s=_TIMEOUT_S, cwd=staged,
            remedy="The npm registry must be reachable, or npm's configuration name one that is.",
        )  # fmt: skip
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)
    return "installed from hub/package-lock.json"
