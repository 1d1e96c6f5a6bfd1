"""What starts, what gives way and why the rest waits: the decisions of the scheduling loop."""
