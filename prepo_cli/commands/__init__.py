"""One module a command: flags -> configuration -> one call."""
