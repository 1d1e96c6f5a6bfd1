"""The platform's internal listener as a host sees it: real TLS, certificates made here, replies that tests choose."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.internal.peer import PEER_CERTIFICATE
from api.internal.server import PeerCertificateProtocol
from api.logs.chunks import decompressed
from scheduler.log_records import Record, unpack_run
from tests.process.daemon_certificates import sign_request


class FakePlatform:
    """`run_until` maps allocations to what the next heartbeat's reply says; those in `ended` must end. `peers` are told
    as the platform does.

    While `away` it answers nothing that a host could use. `serials` are those of the certificates that hosts showed.
    """

    def __init__(self, certificates: Path) -> None:
        self.facts: list[dict[str, Any]] = []
        self.beats: list[dict[str, Any]] = []
        self.windows: list[dict[str, Any]] = []
        self.serials: dict[str, str] = {}  # by path: the last request's
        self.run_until: dict[str, int] = {}
        self.ended: set[str] = set()
        self.peers: dict[str, Any] | None = None
        self.orders: dict[str, dict[str, Any]] = {}  # of tasks, by allocation
        self.orders_asked: list[tuple[str, int]] = []
        self.elements: dict[str, int] = {}  # of workers, by allocation: how many there are, places being indices
        self.elements_asked: dict[str, list[dict[str, Any]]] = {}
        self.output: dict[str, list[Record]] = {}  # of tasks, by allocation
        self.whole: set[str] = set()  # allocations of which all output has come in
        self.away = False
        self.registered = True
        self.skew_ms = 0
        self.renew: Callable[[str], str] = lambda csr: sign_request(certificates, csr, left=timedelta(days=30))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            Starlette(
                routes=[
                    Route("/internal/host", self._host, methods=["PUT"]),
                    Route("/internal/heartbeat", self._heartbeat, methods=["POST"]),
                    Route("/internal/usage", self._usage, methods=["POST"]),
                    Route("/internal/certificate", self._certificate, methods=["POST"]),
                    Route("/internal/attempts/{uid}/{generation:int}", self._order, methods=["GET"]),
                    Route("/internal/attempts/{uid}/{generation:int}/elements", self._elements, methods=["POST"]),
                    Route("/internal/attempts/{uid}/{generation:int}/log/0/{position:int}", self._log, methods=["PUT"]),
                ]
            ),
            http=PeerCertificateProtocol,
            ssl_certfile=certificates / "server.pem",
            ssl_keyfile=certificates / "server.key",
            ssl_ca_certs=str(certificates / "ca.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED,
            log_level="warning",
            lifespan="off",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def now_ms(self) -> int:
        return time.time_ns() // 10**6 + self.skew_ms

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()

    async def _read(self, request: Request) -> Any:
        self.serials[request.url.path] = request.scope[PEER_CERTIFICATE]["serialNumber"].lower().lstrip("0")
        return await request.json()

    async def _host(self, request: Request) -> Response:
        facts = await self._read(request)
        if self.away:
            return Response(status_code=503)
        self.facts.append(facts)
        self.registered = True
        return Response(status_code=204)

    async def _heartbeat(self, request: Request) -> Response:
        beat = await self._read(request)
        if self.away:
            return Response(status_code=503)
        if not self.registered:
            return JSONResponse({"code": "not_registered"}, status_code=409)
        self.beats.append(beat)
        verdicts = [
            {**lease, "run_until_ms": self.run_until.get(uid, self.now_ms()), "end": uid in self.ended}
            for lease in beat["leases"]
            if (uid := lease["allocation_uid"]) in self.run_until or uid in self.ended
        ]
        peers = self.peers if self.peers and self.peers["version"] != beat["peers_version"] else None
        return JSONResponse({"server_time_ms": self.now_ms(), "verdicts": verdicts, "peers": peers})

    async def _usage(self, request: Request) -> Response:
        batch = (await self._read(request))["windows"]
        if self.away:
            return Response(status_code=503)
        self.windows += batch
        return JSONResponse({"boot_id": batch[0]["boot_id"], "accepted_through": batch[-1]["sequence"]})

    async def _certificate(self, request: Request) -> Response:
        asked = await self._read(request)
        if self.away:
            return Response(status_code=503)
        return JSONResponse({"certificate_pem": self.renew(asked["csr_pem"]), "ca_pem": "not looked at"})

    async def _order(self, request: Request) -> Response:
        uid, generation = request.path_params["uid"], request.path_params["generation"]
        if self.away:
            return Response(status_code=503)
        self.orders_asked.append((uid, generation))
        order = self.orders.get(uid)
        if order is None:
            return JSONResponse({"code": "attempt_over"}, status_code=409)
        return JSONResponse(order)

    async def _elements(self, request: Request) -> Response:
        uid, asked = request.path_params["uid"], await self._read(request)
        if self.away:
            return Response(status_code=503)
        if uid not in self.elements:
            return JSONResponse({"code": "attempt_over"}, status_code=409)
        self.elements_asked.setdefault(uid, []).append(asked)
        end = min(asked["have"] + asked["take"], self.elements[uid])
        runs = [{"place": place, "index": place, "number": 1} for place in range(asked["have"], end)]
        return JSONResponse({"runs": runs, "over": not runs and end == self.elements[uid]})

    async def _log(self, request: Request) -> Response:
        uid, position = request.path_params["uid"], request.path_params["position"]
        body, kept = await request.body(), self.output.setdefault(uid, [])
        if self.away:
            return Response(status_code=503)
        expected = kept[-1].end if kept else 0
        if position != expected or uid in self.whole:
            standing = {"expected": expected, "whole": uid in self.whole}
            return JSONResponse({"code": "not_expected", "errors": [standing]}, status_code=409)
        kept += unpack_run(decompressed(body), position) if body else []
        if request.query_params["last"] == "true":
            self.whole.add(uid)
        return Response(status_code=204)

    def text(self, uid: str) -> str:
        """What has come in of an attempt's output."""
        return b"".join(record.data for record in self.output.get(uid, ())).decode()

    def results(self, uid: str) -> dict[int, dict[str, Any]]:
        """What became of a worker's elements, by their places: as it was told first."""
        found: dict[int, dict[str, Any]] = {}
        for asked in list(self.elements_asked.get(uid, ())):
            for result in asked["results"]:
                found.setdefault(result["place"], result)
        return found

    def reports(self, uid: str) -> list[dict[str, Any]]:
        """What was told of the attempts of an allocation."""
        return [each for beat in list(self.beats) for each in beat["attempts"] if each["allocation_uid"] == uid]
