"""Imports every module of the five folders, so that adding a strategy means adding one file."""

import importlib
import pkgutil

import strategies

for _folder in ("selectors", "budgets", "filters", "weightings", "temperatures"):
    _package = importlib.import_module(f"{strategies.__name__}.{_folder}")
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"{_package.__name__}.{_module.name}")
