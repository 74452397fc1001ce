"""End-to-end tests: python3 tests/e2e [--list] [--gateway kernel] [NAME...]"""

import importlib
import os
import pkgutil
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [_HERE, os.path.dirname(_HERE)]

import runner    # noqa: E402
import subjects  # noqa: E402

for _module in pkgutil.iter_modules(subjects.__path__):
    importlib.import_module('subjects.' + _module.name)
sys.exit(runner.main())
