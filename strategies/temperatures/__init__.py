"""One strategy per file; strategies.builtins imports every module in this folder."""
