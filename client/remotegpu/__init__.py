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
from remotegpu.models import Balance, Environment, GpuOffer, Image, Me, Plan, Reservation, Tokens

__all__ = [
    "ApiError",
    "Balance",
    "Client",
    "ConnectionFailed",
    "Environment",
    "GpuOffer",
    "Image",
    "Me",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "Plan",
    "Refused",
    "RemoteGpuError",
    "Reservation",
    "ServerFailed",
    "Tokens",
    "WaitTimeout",
]
