"""The core needs numpy and the standard library; importing the package loads none of the heavy three."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys, pkgutil, importlib
before = set(sys.modules)
import {package}
for found in pkgutil.iter_modules({package}.__path__ if {deep} else []):
    importlib.import_module("{package}." + found.name)
print("\\n".join(sorted({{name.split(".")[0] for name in set(sys.modules) - before}})))
"""


def loaded(package: str, deep: bool) -> set[str]:
    script = SCRIPT.format(package=package, deep=deep)
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_core_imports_numpy_and_the_standard_library_only() -> None:
    found = loaded("quadmix.core", deep=True)
    assert {"quadmix", "numpy"} <= found
    # site packages' own start-up files are not ours; everything else must be numpy, ourselves or the library
    assert {name for name in found if name not in sys.stdlib_module_names} <= {"quadmix", "numpy", "cython_runtime"}


def test_the_core_imports_nothing_of_the_project_beside_itself() -> None:
    script = "import sys, pkgutil, importlib, quadmix.core as c\n" + (
        "[importlib.import_module('quadmix.core.' + m.name) for m in pkgutil.iter_modules(c.__path__)]\n"
        "print('\\n'.join(n for n in sys.modules if n.startswith('quadmix.') and not n.startswith('quadmix.core')))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_importing_the_package_loads_neither_spark_nor_torch_nor_lightgbm() -> None:
    assert not loaded("quadmix", deep=False) & {"pyspark", "torch", "lightgbm"}


def test_importing_the_selection_path_loads_neither_spark_nor_torch_nor_lightgbm() -> None:
    script = (
        "import sys, quadmix.selectors.quadmix, quadmix.selectors.in_memory, quadmix.stages.fitting\n"
        "import quadmix.stages.budgeting, quadmix.stages.emit\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "quadmix" in run.stdout.split()
    assert not set(run.stdout.split()) & {"pyspark", "torch", "lightgbm"}
