"""Imports every module of one adapter; run as a script in an environment that has that one extra only.

Knows nothing of pytest, so that `make extras` can run it where no test tool is installed.
"""

import importlib
import pkgutil
import sys


def import_adapter(name: str) -> list[str]:
    """The names of all modules in `shipworthy.adapters.<name>`, each of them imported."""
    package = importlib.import_module(f"shipworthy.adapters.{name}")
    found = [package.__name__]
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), prefix=f"{package.__name__}."):
        importlib.import_module(module.name)
        found.append(module.name)
    return found


if __name__ == "__main__":
    print(*import_adapter(sys.argv[1]), sep="\n")
