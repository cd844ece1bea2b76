"""The swarm's task with a training loss that stops being a number for chosen proxies, on whatever engine it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quadmix.stages.swarm import Outcome, ProxyJob, TrainJobs


@dataclass(frozen=True)
class DivergingJobs(TrainJobs):
    """diverging: (name, half) of the proxies whose loss is NaN from the fourth step on."""

    diverging: tuple[tuple[str, str], ...] = ()

    def _train(self, job: ProxyJob) -> Outcome:
        if (job.name, job.half) not in self.diverging:
            return super()._train(job)
        import proxy_models.train as training

        true_loss, steps = training.head_loss, [0]

        def broken_loss(*arguments: Any) -> Any:
            steps[0] += 1
            loss, gradient = true_loss(*arguments)
            return (loss * float("nan") if steps[0] > 3 else loss), gradient

        training.head_loss = broken_loss
        try:
            return super()._train(job)
        finally:
            training.head_loss = true_loss
