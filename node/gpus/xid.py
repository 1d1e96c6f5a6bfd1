"""The last XID error of each GPU, from NVML's event set, waited for in a thread of its own."""

import ctypes
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pynvml

log = logging.getLogger(__name__)

_WAIT_MS = 500
_RETRY_S = 1.0


class XidWatch:
    """Does nothing where the driver has no events: `last` is None then, as it is before the first error."""

    def __init__(self, handles: Mapping[str, Any]) -> None:  # Any: pynvml's device handles
        self._last: dict[str, int] = {}
        self._by_pointer: dict[int, str] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:
            return
        for uuid, handle in handles.items():
            try:
                pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
                self._by_pointer[_address(handle)] = uuid
            except pynvml.NVMLError as error:
                log.info("no XID events from GPU %s: %s", uuid, error)
        self._events = events
        if self._by_pointer:
            self._thread = threading.Thread(target=self._run, name="xid", daemon=True)
            self._thread.start()

    def last(self, uuid: str) -> int | None:
        return self._last.get(uuid)

    def close(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=4 * _WAIT_MS / 1000)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, _WAIT_MS)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    self._ended.wait(_RETRY_S)
                continue
            uuid = self._by_pointer.get(_address(event.device))
            if uuid is not None:
                self._last[uuid] = int(event.eventData)
                log.error("GPU %s reports XID %d", uuid, event.eventData)


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
