"""A platform for benchmarks, with a customer who can pay, started and ended around the measurement."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from remotegpu import Client
from tests.e2e.conftest import Platform, new_platform

PASSWORD = "a pass phrase for measuring 1"
_READY_S = 180.0
_POLL_S = 0.05  # more often, and the asking itself would slow down what is measured on a machine of two cores


@dataclass(frozen=True, slots=True)
class World:
    platform: Platform
    admin: Client
    owner: Client
    username: str

    def container_of(self, environment_id: str) -> dict[str, object]:
        """What Docker says of an environment's container."""
        listed = subprocess.run(
            ["docker", "ps", "-q", "--filter", f"name=rg-env-{environment_id}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        done = subprocess.run(
            ["docker", "inspect", listed.stdout.split()[0]], capture_output=True, text=True, check=True
        )
        found: dict[str, object] = json.loads(done.stdout)[0]
        return found


@contextmanager
def world(*options: str) -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="rgb-", dir="/var/tmp"))
    directory.chmod(0o711)
    platform = new_platform(directory / "p", *options)
    try:
        platform.up()
        with Client(platform.public_url, api_key="") as admin, Client(platform.public_url, api_key="") as owner:
            admin.sign_in("admin", platform.admin_password)
            admin.account.change_password(current=platform.admin_password, new=PASSWORD)
            admin.sign_in("admin", PASSWORD)
            admin.admin.set_price(gpu_model="A100", price_micro=1_000_000)
            created = admin.admin.create_customer(name="bench", owner="bench", password=PASSWORD)
            admin.admin.top_up(created["id"], amount_micro=10**12)
            owner.sign_in("bench", PASSWORD)
            if owner.account.me().must_change_password:
                owner.account.change_password(current=PASSWORD, new=PASSWORD + "!")
                owner.sign_in("bench", PASSWORD + "!")
            yield World(platform, admin, owner, "bench")
    finally:
        if (platform.data / "instance.json").exists():
            platform.down()
        shutil.rmtree(directory)


def wait_until_answers(url: str, *, askers: int = 1) -> None:
    """Return when `url` answers 200. Several `askers` beside each other ask as often as one alone, all together.

    Raises:
        TimeoutError
    """
    deadline = time.monotonic() + _READY_S
    with httpx.Client(timeout=5.0) as client:
        while time.monotonic() < deadline:
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S * askers)
    raise TimeoutError(f"{url} did not answer 200 within {_READY_S} s")
