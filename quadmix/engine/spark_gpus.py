"""What proxies ask of Spark's GPUs, checked against what the session asked of the cluster.

Proxies run under a resource profile of their own (stage-level scheduling), which asks for a part of a GPU a task;
everything else runs under the default profile and asks for none, so it may use every core. Executors must have been
started with GPUs. Where they were not, Spark 4.3 fails with "No executor resource configs were specified"; where the
cluster has no machine with as many GPUs as an executor wants, it waits for ever (both seen on a standalone cluster).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from quadmix.errors import EnvironmentFault

GPUS_OF_AN_EXECUTOR = "spark.executor.resource.gpu.amount"
WAITING = "spark.scheduler.maxRegisteredResourcesWaitingTime"
PATIENCE = "300s"  # until the first task that asked for a GPU has started, unless WAITING says otherwise


def tasks_of_an_executor(gpus_per_trial: float, settings: Mapping[str, str]) -> int:
    """How many proxies an executor's GPUs take at once, from the session's properties.

    Raises EnvironmentFault where they rule it out that any task is ever given a GPU.
    """
    asked = f"engine.gpus_per_trial: found {gpus_per_trial:g}"
    master = settings.get("spark.master", "")
    if master.startswith("local"):
        raise EnvironmentFault(
            f"{asked}, but Spark schedules no GPUs on the master {master!r}; leave the key out: proxies are then dealt "
            "round this machine's GPUs"
        )
    amount = settings.get(GPUS_OF_AN_EXECUTOR, "0")
    if not amount.isdigit() or int(amount) < 1:
        found = f"{amount!r}" if GPUS_OF_AN_EXECUTOR in settings else "none"
        raise EnvironmentFault(
            f"{asked}, but executors were started without GPUs ({GPUS_OF_AN_EXECUTOR}: found {found}, wanted at least "
            f"1). Submit the search with --conf {GPUS_OF_AN_EXECUTOR}=1 and, on YARN and Kubernetes, "
            "spark.executor.resource.gpu.discoveryScript and .vendor (docs/spark.md), or leave the key out"
        )
    return int(amount) * sharing(gpus_per_trial)


def sharing(gpus_per_trial: float) -> int:
    """Proxies on one device, as Spark counts them: 0.25 -> 4, 0.3 -> 3."""
    return math.floor(1.0 / gpus_per_trial)


def no_gpu_came(gpus_per_trial: float, settings: Mapping[str, str], seconds: int, executors: int) -> EnvironmentFault:
    """The error after a task that asked for a GPU was not started in time."""
    return EnvironmentFault(
        f"engine.gpus_per_trial: found {gpus_per_trial:g}, but no task was given a GPU in {seconds} s "
        f"({executors} executors registered; each was to have {settings.get(GPUS_OF_AN_EXECUTOR)} GPUs). The cluster "
        "has no machine free with as many, or does not announce them "
        f"(standalone: spark.worker.resource.gpu.amount and .discoveryScript). Lower {GPUS_OF_AN_EXECUTOR}, or raise "
        f"{WAITING} where machines take longer to start. No proxy was trained"
    )
