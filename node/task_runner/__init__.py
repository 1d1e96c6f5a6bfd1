"""What runs inside a task's container, in front of its command.

It is run by the image's own `python3`, 3.9 or newer, from a directory that the host mounts: standard library only, and
relative imports only. What is not needed for every command is imported when it is needed, since each import is part of
each start. Everything that it writes is the tenant's own claim; the host daemon takes it as input from outside.
"""
