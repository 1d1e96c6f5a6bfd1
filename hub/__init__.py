"""JupyterHub: configuration, authenticator and spawner. Imports nothing else of the platform."""
