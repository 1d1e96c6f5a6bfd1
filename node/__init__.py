"""What runs on a GPU host: the host daemon, which owns containers and the usage meter, and the agent actor in Ray."""
