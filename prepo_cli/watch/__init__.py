"""`prepo watch`: a run as it goes on, read from its folder alone."""
