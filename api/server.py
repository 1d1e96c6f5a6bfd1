"""`python -m api.server`: the public and the internal listener in one process.

The internal one has an event loop in a thread of its own, and with it threads for requests and connections to the
database of its own: whatever tenants ask for, the heartbeats of hosts, which renew their leases, do not wait for it.
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from api.app import create_app
from api.db import Database
from api.internal.server import serve_config
from api.migrations.migrate import check_schema
from api.settings import Settings

KEEP_ALIVE_S = 20
GRACE_S = 5
MAX_CONNECTIONS = 2000


class Listener(uvicorn.Server):
    """A uvicorn server that leaves the signals to `serve`, since two run in one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def public_config(settings: Settings, database: Database) -> uvicorn.Config:
    """The public listener: TLS where a certificate is given."""
    return uvicorn.Config(
        create_app(settings, database),
        host=settings.listen_host,
        port=settings.listen_port,
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,  # it would take longer than all the rest
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
        proxy_headers=False,  # an address that the sender may choose would defeat the rate limits
        server_header=False,
        access_log=False,
    )


async def serve(public: uvicorn.Config, internal: uvicorn.Config) -> None:
    """Run both listeners until a signal ends them, or one of them ends by itself.

    Raises:
        RuntimeError: a listener could not start.
    """
    outer, inner = listeners = Listener(public), Listener(internal)

    def stop() -> None:
        for listener in listeners:
            listener.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = [
        asyncio.create_task(outer.serve()),
        asyncio.create_task(asyncio.to_thread(uvloop.run, inner.serve())),
    ]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    stop()
    await asyncio.gather(*running)
    if not all(listener.started for listener in listeners):
        raise RuntimeError("a listener could not start; the log says why")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    public, internal = Database(settings.database_url), Database(settings.database_url)
    check_schema(public.engine)
    try:
        uvloop.run(serve(public_config(settings, public), serve_config(settings, internal)))
    finally:
        public.close()
        internal.close()


if __name__ == "__main__":
    main()
