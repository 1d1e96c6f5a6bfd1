"""Command line and Python SDK of a RemoteGPU cloud."""

from remotegpu.client import Client
from remotegpu.environments import WaitTimeout
from remotegpu.errors import (
    ApiError,
    ConnectionFailed,
    NotAllowed,
    NotFound,
    NotSignedIn,
    Refused,
    RemoteGpuError,
    ServerFailed,
)
from remotegpu.execution import Disconnected, Execution
from remotegpu.folder import BadFolder
from remotegpu.models import (
    Balance,
    Environment,
    GpuOffer,
    Image,
    LogRecord,
    Me,
    Plan,
    Reservation,
    Task,
    TaskDetail,
    Tokens,
)

__all__ = [
    "ApiError",
    "BadFolder",
    "Balance",
    "Client",
    "ConnectionFailed",
    "Disconnected",
    "Environment",
    "Execution",
    "GpuOffer",
    "Image",
    "LogRecord",
    "Me",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "Plan",
    "Refused",
    "RemoteGpuError",
    "Reservation",
    "ServerFailed",
    "Task",
    "TaskDetail",
    "Tokens",
    "WaitTimeout",
]
