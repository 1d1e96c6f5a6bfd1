"""What is free on which host, in memory, and the search for a place: the picture that decisions are made on."""
