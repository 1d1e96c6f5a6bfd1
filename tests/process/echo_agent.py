"""An agent for tests of the fabric: it answers what the test asks it to, and says which process it is."""

import os
import time
from typing import Any


class EchoAgent:
    def __init__(self) -> None:
        self._ended: list[str] = []

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        if operation == "slow":
            time.sleep(float(body["seconds"]))
        if operation == "grant_lease" and body["generation"] < 1:
            return {"status": 409, "body": {"code": "stale_generation", "detail": "an older generation"}}
        if operation == "end_lease":
            if body["grace_s"] > 600:
                return {"status": 409, "body": {"code": "still_ending", "detail": "it has its grace"}}
            ended_at_ms = time.time_ns() // 1_000_000
            return {"status": 200, "body": {"ended_at_ms": ended_at_ms, "exit_code": 0, "last_window": None}}
        return {"status": 200, "body": {"operation": operation, "body": body, "pid": os.getpid()}}

    def ping(self) -> dict[str, Any]:
        return {"pid": os.getpid()}
