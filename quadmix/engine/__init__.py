"""Engines: where tasks run. `make_engine` is the only place that chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # workers import this package and need none of it
    from quadmix.config import EngineConfig
    from quadmix.engine.base import Engine
    from quadmix.progress import Progress


def make_engine(config: EngineConfig, progress: Progress) -> Engine:
    """The engine that `config` asks for. Spark (and its JVM) is imported and started only when asked for.

    Raises `errors.EnvironmentFault` when Java, pyspark or the right Python is missing.
    """
    if config.kind == "local":
        from quadmix.engine.local import LocalEngine

        return LocalEngine(config.workers, progress)
    from quadmix.engine.spark import SparkEngine

    return SparkEngine.start(config, progress)
