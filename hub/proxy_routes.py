"""The Hub's view of its proxy: a proxy that starts anew knows no routes, and is given them at once."""

from typing import Any

from jupyterhub.proxy import ConfigurableHTTPProxy
from tornado.httpclient import HTTPError
from tornado.ioloop import PeriodicCallback

_CHECK_MS = 2_000


class PlatformProxy(ConfigurableHTTPProxy):
    """The Hub has not started the proxy (see hub/proxy.py), so it would look at its routes every five minutes only."""

    def __init__(self, **kwargs: Any) -> None:  # Any: traits
        super().__init__(**kwargs)
        self._had_routes = False
        self._watch = PeriodicCallback(self.keep_routes, _CHECK_MS)
        self._watch.start()

    async def keep_routes(self) -> None:
        """Give the proxy its routes if it has lost them. The first ones the Hub sets when it has started."""
        try:
            routes = await self.get_all_routes()
            lost = self.hub.routespec not in routes
            if lost and self._had_routes:
                self.log.warning("The proxy has started anew; it gets its routes")
                await self.check_routes(self.app.users, self.app._service_map, routes)
        except (HTTPError, OSError, TimeoutError) as error:
            self.log.warning("The proxy does not answer: %s", error)
            return
        self._had_routes = self._had_routes or not lost
