"""What must be right before Spark starts: Java, the workers' Python, the session's settings, the code it ships."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quadmix.config import SparkEngineConfig
from quadmix.engine.environment import environment
from quadmix.engine.failures import MAX_ATTEMPTS
from quadmix.engine.worker import ENVIRONMENT
from quadmix.errors import EnvironmentFault

_LEAST_JAVA = 17
_SHIPPED = ("quadmix", "proxy_models")


def with_retries(master: str) -> str:
    """`local[2]` -> `local[2,4]`: Spark alone never retries a lost Python worker on a local master."""
    plain = re.fullmatch(r"local(?:\[([^,\]]+)\])?", master)
    return f"local[{plain[1] or 1},{MAX_ATTEMPTS}]" if plain else master


def session_settings(config: SparkEngineConfig, submitted: dict[str, str]) -> dict[str, str]:
    """The properties to set: our defaults where spark-submit said nothing, then the configuration's, which win."""
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "FATAL",  # failures are reported by the engine, in its words; the trace is the error's cause
        "spark.task.maxFailures": str(MAX_ATTEMPTS),
    }
    if _on_this_machine(config.master):
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    settings |= {f"spark.executorEnv.{name}": value for name, value in ENVIRONMENT.items()}
    return {key: value for key, value in settings.items() if key not in submitted} | config.conf


@contextmanager
def start_environment(config: SparkEngineConfig) -> Iterator[None]:
    """Variables that pyspark and its JVM read once, when the session starts."""
    wanted = {"PYSPARK_PYTHON": workers_python(config), "PYSPARK_DRIVER_PYTHON": sys.executable}
    if _on_this_machine(config.master):
        wanted |= {"SPARK_LOCAL_IP": "127.0.0.1"}
    with environment(wanted):
        yield


def workers_python(config: SparkEngineConfig) -> str:
    """The executors' Python: `spark.pyspark.python`, else PYSPARK_PYTHON, else the one that runs this."""
    return config.conf.get("spark.pyspark.python") or os.environ.get("PYSPARK_PYTHON") or sys.executable


def check_machine(config: SparkEngineConfig) -> None:
    """Raise EnvironmentFault, with the fix, for what would otherwise be a Java trace minutes later."""
    problems = []
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # under spark-submit the JVM is already there
        problems += _java_problems()
    problems += _pandas_problems()
    if _on_this_machine(config.master):
        problems += _python_problems(workers_python(config))
    if problems:
        raise EnvironmentFault("\n".join(problems))


def code_archive(directory: Path) -> Path | None:
    """A zip of the project's packages in `directory`, named by its content; None when they are not plain directories

    (then the project itself came as a zip, by `--py-files`, and the executors have it).
    """
    roots = [_package_directory(name) for name in _SHIPPED]
    files = sorted(
        (path.relative_to(root.parent).as_posix(), path)
        for root in roots
        if root is not None
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    if not files:
        return None
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    archive = directory / f"quadmix-{digest.hexdigest()[:16]}.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, path in files:
            target.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def _package_directory(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent
    return directory if directory.is_dir() else None


def _on_this_machine(master: str | None) -> bool:
    if master is None:
        return False
    return master.startswith("local") or re.match(r"spark://(127\.0\.0\.1|localhost)[:,]", master) is not None


def _java_problems() -> list[str]:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    fix = "on Debian or Ubuntu: apt-get install default-jre-headless; or use `--engine local`, which needs none"
    if java is None:
        where = f"in JAVA_HOME ({home})" if home else "on the PATH"
        return [f"engine.kind: 'spark' needs Java {_LEAST_JAVA} or later, found none {where}; {fix}"]
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < _LEAST_JAVA:
        found = version[1] if version else (said.splitlines() or ["nothing"])[0]
        return [f"engine.kind: 'spark' needs Java {_LEAST_JAVA} or later, found {found} ({java}); {fix}"]
    return []


def _pandas_problems() -> list[str]:
    try:
        version = importlib.metadata.version("pandas")
    except importlib.metadata.PackageNotFoundError:
        return ["engine.kind: 'spark' needs pandas below 3, found none; pip install 'pandas<3'"]
    if int(version.split(".")[0]) >= 3:
        return [f"engine.kind: 'spark' needs pandas below 3, found {version}; pip install 'pandas<3'"]
    return []


def _python_problems(python: str) -> list[str]:
    """Problems of the Python that Spark is to start its workers with."""
    if python == sys.executable:
        return []
    found = shutil.which(python)
    hint = f"unset PYSPARK_PYTHON to use {sys.executable}"
    if found is None:
        return [f"PYSPARK_PYTHON: found {python!r}, which is no program; {hint}"]
    script = "import sys; print('%d.%d' % sys.version_info[:2]); import numpy, pyarrow, pydantic, xxhash"
    tried = subprocess.run([found, "-c", script], capture_output=True, text=True, check=False)
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    version = tried.stdout.strip()
    if version != wanted:
        return [f"PYSPARK_PYTHON: found {python!r}, which is Python {version or 'unknown'}, wanted {wanted}; {hint}"]
    if tried.returncode != 0:
        lacking = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else "it failed"
        return [f"PYSPARK_PYTHON: found {python!r}, which lacks a library ({lacking}); {hint}"]
    return []
