"""One idea a file; every module here is imported by strategies.builtins."""
