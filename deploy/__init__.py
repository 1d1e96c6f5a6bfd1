"""How the platform starts: the `remotegpud` launcher and everything it supervises."""
