"""The host daemon: owns the containers, networks, volumes, leases and the usage meter of one host."""
