"""The pure core: states, value types, arithmetic of money and leases, and the scheduling loop over two ports.

No I/O, no clock, no randomness: both are passed in.
"""
