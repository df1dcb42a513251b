"""`prepo watch`: a live view of a run, read only from its folder."""
