"""A bill as it is exported, and its verification with nothing but the file and the platform's public key."""

from remotegpu.bill.check import Verified, Verifier
from remotegpu.bill.lines import BadLine
from remotegpu.bill.signatures import read_keys

__all__ = ["BadLine", "Verified", "Verifier", "read_keys"]
