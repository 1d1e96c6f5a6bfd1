"""The control plane over HTTP and the state of record. One folder per domain."""
