"""What a hostile tenant makes of its own JupyterLab: pages without a sign-in, and a record of what browsers send.

`~/.jupyter/jupyter_server_config.py` is the tenant's to write, and runs in its server. All below the server's address
is the tenant's then: here `trap/` answers everybody with a blank page, on which a test runs the tenant's JavaScript.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e.commands import Person
from tests.e2e.tenant import TenantContainer, container_of

_CONFIG = r"""
import json
import tornado.web

class Trap(tornado.web.RequestHandler):
    def _answer(self):
        with open("/home/jovyan/seen.jsonl", "a") as seen:
            seen.write(json.dumps({"path": self.request.uri, "headers": list(self.request.headers.get_all())}) + "\n")
        self.set_header("Content-Type", "text/html")
        self.set_header("Access-Control-Allow-Origin", self.request.headers.get("Origin", "*"))
        self.finish("<!doctype html><title>trap</title><p>Free GPUs")
    get = post = options = _answer
    def check_xsrf_cookie(self): pass

made = tornado.web.Application.__init__
def make(self, handlers=None, *args, **kwargs):
    made(self, [(r"/user/[^/]+/[^/]+/trap/.*", Trap), *(handlers or [])], *args, **kwargs)
tornado.web.Application.__init__ = make
"""


@dataclass(frozen=True, slots=True)
class Trap:
    """`url` is the tenant's page."""

    url: str
    container: TenantContainer

    def seen(self) -> list[dict[str, Any]]:
        """The requests that came, with all their headers."""
        lines = self.container.run("sh", "-c", "cat /home/jovyan/seen.jsonl 2>/dev/null || true").splitlines()
        return [json.loads(line) for line in lines]

    def cookies(self) -> str:
        """Every Cookie header that came, one a line."""
        headers = [pair for request in self.seen() for pair in request["headers"]]
        return "\n".join(value for name, value in headers if name.lower() == "cookie")


def lay(tenant: Person, name: str) -> Trap:
    """Start an environment of the tenant's, change it from inside, and start it again."""
    environment = tenant.json("env", "create", "--gpus", "1", "--gpu-model", "A100", "--name", name, "--wait")
    write = "mkdir -p ~/.jupyter && cat > ~/.jupyter/jupyter_server_config.py && rm -f ~/seen.jsonl"
    container_of(environment).run("sh", "-c", write, stdin=_CONFIG)
    tenant.run("env", "stop", name, "--wait")
    environment = tenant.json("env", "start", name, "--wait")
    return Trap(f"{environment['url']}trap/", container_of(environment))
