"""One module per command: flags -> configuration -> one call."""
