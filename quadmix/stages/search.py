"""The search stage: a swarm of proxies, regressors over it, one proposal, and its confirmation by fresh proxies.

Everything is a function of the annotations, the targets, the config and the seed: a killed search goes on from its
journal to the same bits, on any engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quadmix.config import LEAST_TRIALS, MixtureConfig, RunConfig, SearchConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.engine.base import Engine, SchedulesGpus
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint, seed_for
from quadmix.progress import Progress
from quadmix.search.features import FeatureSet, Mixtures
from quadmix.search.journal import Journal
from quadmix.search.learning import Believed, Trained, believe, feature_sets, learn
from quadmix.search.noise import measure_noise, noise_in_words, prior_of
from quadmix.search.objective import Objective
from quadmix.search.proposals import predicted_by_name, theta_by_name
from quadmix.search.result import (
    JOINT,
    Confirmation,
    CrossValidation,
    Noise,
    Proposal,
    SearchResult,
    TargetFacts,
    Trial,
    Worth,
)
from quadmix.search.rounds import Known, NextRound, Tried, round_sizes
from quadmix.search.screening import (
    SearchModels,
)
from quadmix.search.stopping import MORE, worth_in_words, worth_of_more
from quadmix.search.trial_files import LOSSES_FILE, MIXTURES_FILE, trials_csv
from quadmix.search.warm_start import Earlier
from quadmix.stages.annotate import Annotated
from quadmix.stages.confirming import confirmation_jobs, confirmed, contestants
from quadmix.stages.constraining import Constraints, constraints_of
from quadmix.stages.drawing import Drawing
from quadmix.stages.first_fidelity import FirstFidelity
from quadmix.stages.proposing import Proposing
from quadmix.stages.records import (
    StageRecord,
    begin,
    commit,
    file_entry,
    find,
    record_digest,
    stage_directory,
    stage_fingerprint,
    write_atomically,
)
from quadmix.stages.repeating import by_mixture, repeats
from quadmix.stages.search_inputs import Prepared, checked, prepare, swarm_parts
from quadmix.stages.swarm import Outcome, ProxyJob, run_jobs
from quadmix.stages.warm_starting import DOMAINS_FILE, RESULT_FILE, domain_facts, earlier_trials, sources

STAGE = "search"
_RULES = 3  # raised where the same trials would give another proposal than before
_SHOWN_FAILURES = 3

Floats = NDArray[np.float64]


def search(config: RunConfig, engine: Engine, progress: Progress, annotated: Annotated) -> SearchResult:
    """Run the search, or reuse it when nothing it depends on has changed.

    Raises ConfigError for what the config lacks, BudgetError when no theta can meet the budget.
    """
    settings, tokenizer, targets = checked(config)
    root = Path(config.output)
    shared = swarm_parts(config, settings, annotated, tokenizer, targets)
    parts = {
        **shared,
        "config.mixture.space": config.mixture.space.model_dump_json(),
        "config.mixture.constraints": config.mixture.constraints.model_dump_json(),
        "config.search": settings.model_dump_json(exclude={"trials_per_task", "warm_start"}),
        "rules": str(_RULES),
    }
    warm = sources(config, settings, parts, [target.name for target in targets])
    if warm:
        parts["warm_start"] = fingerprint(*(record_digest(source.record) for source in warm))
    reuse = find(root, STAGE, parts)
    progress.say(reuse.why)
    record = reuse.record
    if record is None:
        constraints = constraints_of(config, annotated.summary)
        if isinstance(engine, SchedulesGpus):
            engine.require_gpus(STAGE)
        directory = begin(root, STAGE, parts)
        swarm_directory = begin(root, "swarm", shared)
        prepared = prepare(config, settings, engine, progress, annotated, tokenizer, targets, swarm_directory)
        facts = domain_facts(config, annotated, prepared.sample.whole_quality)
        earlier = earlier_trials(warm, facts, list(prepared.facts), progress)
        result = _Run(
            config, settings, engine, progress, annotated, prepared, constraints, earlier, tokenizer.end_id
        ).result()
        mixtures, losses = trials_csv(result.trials, result.domains, list(result.targets))
        trials = len(result.trials)
        files = {
            RESULT_FILE: (result.to_json(), trials),
            MIXTURES_FILE: (mixtures, trials),
            LOSSES_FILE: (losses, trials),
            DOMAINS_FILE: (facts, len(result.domains)),
        }
        for name, (content, _) in files.items():
            write_atomically(directory / name, content)
        record = StageRecord(
            STAGE,
            stage_fingerprint(STAGE, parts),
            parts,
            tuple(file_entry(directory, name, rows) for name, (_, rows) in files.items()),
            {
                "verdict": result.confirmation.verdict,
                "winner": result.confirmation.winner,
                "trials": trials,
                "failed_trials": sum(trial.losses is None for trial in result.trials),
                "spearman": result.cross_validation.scores[JOINT].spearman,
            },
        )
        commit(root, record)
    return load_result(root, record)


def load_result(root: Path, record: StageRecord) -> SearchResult:
    """The result of a search record."""
    directory = stage_directory(root, STAGE, record.fingerprint)
    return SearchResult.from_json((directory / RESULT_FILE).read_bytes())


class _Run:
    """One search, step by step; holds what the steps share."""

    def __init__(
        self,
        config: RunConfig,
        settings: SearchConfig,
        engine: Engine,
        progress: Progress,
        annotated: Annotated,
        prepared: Prepared,
        constraints: Constraints,
        earlier: Sequence[Earlier],
        end_id: int | None,
    ) -> None:
        self.config, self.settings, self.engine, self.progress = config, settings, engine, progress
        self.summary, self.prepared, self.mixture = annotated.summary, prepared, config.mixture
        self.domains, self.criteria = prepared.pool.domains, prepared.pool.criteria
        self.space: ParamSpace = constraints.space
        self.constraints = constraints
        self.limits = constraints.active
        self.earlier = earlier
        weights = {name: fact.weight for name, fact in prepared.facts.items()}
        self.objective = Objective(weights, settings.objective_rule)
        self.targets = self.objective.targets
        self.points: dict[str, Floats] = {}  # of the cube of draws, by trial
        told = all(mixture.counted for one in earlier for mixture in one.mixtures)
        self.counts = FirstFidelity(config, settings, engine, progress, prepared, end_id, in_features=told)
        self.journal = Journal(prepared.directory / "journal.jsonl")
        if self.journal.damaged:
            progress.say(f"search: {self.journal.damaged} damaged lines of the journal are ignored and done again")

    def result(self) -> SearchResult:
        trials, noise = self.swarm()
        usable = [trial for trial in trials if trial.kind == "theta" and trial.losses is not None]
        if len(usable) < LEAST_TRIALS:
            self.too_few(len(usable), [trial.error for trial in trials])
        if noise is not None:
            self.progress.say(f"search: {noise_in_words(noise, self.settings.confirm.seeds)}")
        counting = self.counts.facts(usable)
        models, validation = self.learn(usable, noise)
        more = self.more(usable, noise)
        self.progress.say(f"search: {worth_in_words(more)}")
        found = Proposing(
            self.settings, self.engine, self.progress, self.space, self.mixture, self.summary.tokens,
            self.constraints, self.config.seed,
        ).propose(models, usable)  # fmt: skip
        confirmation = self.confirm(found.proposals, trials)
        self.progress.say(f"search: {confirmation.verdict}")
        pool = self.prepared.pool
        return SearchResult(
            domains=list(self.domains),
            criteria=list(self.criteria),
            targets=self.target_facts(usable),
            pool_docs=int(self.summary.docs.sum()),
            pool_tokens=self.summary.total_tokens,
            sample_docs=pool.docs,
            sample_tokens=pool.tokens,
            tokens_per_trial=self.settings.tokens_per_trial,
            features=models.full_features.names,
            trials=self.with_predictions(trials, usable, models, validation),
            cross_validation=validation,
            tally=found.tally,
            proposals=found.proposals,
            confirmation=confirmation,
            objective=self.objective.rule,
            constraints=found.constraints,
            prices=found.prices,
            pareto=found.front,
            noise=noise,
            more=more,
            counting=counting,
            kl=found.kl,
        )

    def swarm(self) -> tuple[list[Trial], Noise | None]:
        """Train the thetas of Algorithm 1, the baselines and repeats under fresh seeds, which tell the noise; then,
        round by round, the thetas that promise most."""
        sample, task, seed = self.prepared.sample, self.prepared.task, self.config.seed
        scaled = self.mixture.model_copy(update={"budget": task.budget})
        base = seed_for(seed, "swarm")
        first, *later = round_sizes(self.settings.trials, self.settings.rounds)
        drawing = Drawing(self.engine, self.space, scaled, sample.tokens_by_domain, seed, self.counts.sample)
        drawn, counted = drawing.choose(range(first), self.counts.draws, self.objective)
        jobs, attempts, points = [], [], []
        for index, one in enumerate(drawn):
            assert one.params.cube is not None
            theta = theta_by_name(one.params, self.domains, self.criteria)
            jobs.append(ProxyJob(index, f"trial-{index:05d}", "theta", "search", base, theta=theta))
            attempts.append(one.attempts)
            points.append(one.params.cube)
        baselines = [
            ProxyJob(self.settings.trials + place, name, kind, "search", base, criterion=criterion)
            for place, (name, kind, criterion) in enumerate(self.baselines())
        ]
        repeated = repeats([baselines[0], *jobs], self.settings.noise, base)
        outcomes = self.train([*jobs, *baselines, *repeated], "search: training proxies")
        trained, rest = self.counts.told(outcomes[:first], counted), outcomes[first:]
        baselines_trained, again = (
            self.counts.told(rest[: len(baselines)], self.counts.of_baselines(baselines)),
            rest[len(baselines) :],
        )
        if self.objective.rule == "worst":
            self.objective = self.objective.against(self.natural_losses(baselines, baselines_trained))
        own = [baselines_trained[0], *trained]
        noise = measure_noise(by_mixture(own, again, self.settings.noise), self.objective)
        for number, size in enumerate(later, start=2):
            cube = self.next_round(points, trained, size, number, scaled, noise)
            for point in cube:
                theta = theta_by_name(params_from_cube(self.space, point[None]), self.domains, self.criteria)
                jobs.append(ProxyJob(len(jobs), f"trial-{len(jobs):05d}", "theta", "search", base, theta=theta))
                attempts.append(1)
                points.append(point[None])
            counted = None if self.counts.sample.counts is None else drawing.counted(cube)
            label = f"search: training proxies, round {number} of {len(later) + 1}"
            trained += self.counts.told(self.train(jobs[len(trained) :], label), counted)
        attempts += [1] * len(baselines)
        self.points = {job.name: point for job, point in zip(jobs, points, strict=True)}
        trials = [
            self.trial(job, tries, outcome)
            for job, tries, outcome in zip([*jobs, *baselines], attempts, [*trained, *baselines_trained], strict=True)
        ]
        return trials, noise

    def more(self, usable: Sequence[Trial], noise: Noise | None) -> Worth:
        """What the next trials would be worth: Algorithm 1's next draws, or what the next round would choose."""
        full, tokens = self.feature_sets[0], self.summary.tokens
        asking = self.asking(self.mixture, tokens, noise)
        made = [trial.mixture for trial in usable if trial.mixture]
        tried = Tried(
            np.concatenate([self.points[trial.name] for trial in usable]),
            Mixtures.of_names(made, self.domains, self.criteria, full.counted),
            np.array([trial.joint for trial in usable], dtype=np.float64),
        )
        seed = seed_for(self.config.seed, "more")
        if self.settings.rounds > 1:
            cube = asking.choose(tried, MORE, seed)[0]
        else:
            drawing = Drawing(self.engine, self.space, self.mixture, tokens, self.config.seed, self.counts.sample)
            following = range(self.settings.trials, self.settings.trials + MORE)
            drawn, _ = drawing.choose(following, self.counts.draws, self.objective)
            cube = np.concatenate([one.params.cube for one in drawn if one.params.cube is not None])
        return worth_of_more(asking, tried, cube, seed, limits=self.limits)

    def asking(self, mixture: MixtureConfig, tokens: NDArray[np.int64], noise: Noise | None) -> NextRound:
        """What chooses trials of mixtures with that budget, from a pool of so many tokens by domain."""
        full, cheap = self.feature_sets
        weights = tuple(self.objective.weights[name] for name in self.counts.targets)
        return NextRound(
            self.space,
            mixture,
            tokens,
            cheap,
            full,
            self.counts.measuring,
            noise=prior_of(noise, JOINT),
            weights=weights,
        )

    def next_round(
        self,
        points: Sequence[Floats],
        outcomes: Sequence[Outcome],
        n: int,
        number: int,
        mixture: MixtureConfig,
        noise: Noise | None,
    ) -> Floats:
        """(n, dim) cube points that promise most after the trials so far."""
        kept = [index for index, outcome in enumerate(outcomes) if outcome.losses is not None]
        if len(kept) < LEAST_TRIALS:
            self.too_few(len(kept), [outcome.error for outcome in outcomes])
        mixtures = [found for index in kept if (found := outcomes[index].mixture) is not None]
        full = self.feature_sets[0]
        tried = Tried(
            np.concatenate([points[index] for index in kept]),
            Mixtures.of_names(mixtures, self.domains, self.criteria, full.counted),
            np.array([self.joint(outcomes[index].losses) for index in kept], dtype=np.float64),
        )
        asking = self.asking(mixture, self.prepared.sample.tokens_by_domain, noise)
        losses = np.array([[(outcomes[index].losses or {})[name] for name in self.targets] for index in kept])
        warm = self.believe(Trained(mixtures, [], losses))
        known = None
        if warm is not None:
            known = Known(
                Mixtures.of_names(warm.mixtures, self.domains, self.criteria, full.counted),
                self.objective.joint(warm.losses),
            )
        cube, expected = asking.choose(tried, n, seed_for(self.config.seed, "round", number), earlier=known)
        self.progress.say(
            f"search: round {number}: {len(cube)} mixtures by expected improvement after {len(kept)} trials; loss "
            f"{float(expected.min()):.3f} to {float(expected.max()):.3f} expected, {float(tried.joint.min()):.3f} seen"
        )
        return cube

    def believe(self, trained: Trained) -> Believed | None:
        """The trials of earlier searches that help to predict these."""
        if not self.earlier:
            return None
        found, verdicts = believe(self.earlier, trained, self.feature_sets[0], self.targets, self.config.seed)
        for one, verdict in zip(self.earlier, verdicts, strict=True):
            self.progress.say(
                f"search: {len(one.mixtures)} trials of {one.name} are {'used' if verdict.helps else 'left out'}: "
                f"held-out error {verdict.together:.3f} with them, {verdict.alone:.3f} without; "
                f"shifted by {', '.join(f'{shift:+.3f}' for shift in verdict.shift)} nats"
            )
        return found

    def too_few(self, finished: int, errors: Sequence[str | None]) -> NoReturn:
        reasons = sorted({error for error in errors if error})
        raise ConfigError(
            f"search: {finished} of {self.settings.trials} proxies finished, wanted at least {LEAST_TRIALS} "
            f"({'; '.join(reasons[:3])}). Lower search.proxy.lr or raise search.tokens_per_trial"
        )

    @property
    def feature_sets(self) -> tuple[FeatureSet, FeatureSet]:
        """What the full models see, and what screens."""
        return feature_sets(self.settings.regressor.features, self.domains, self.criteria, self.counts.targets)

    def natural_losses(self, jobs: Sequence[ProxyJob], outcomes: Sequence[Outcome]) -> Mapping[str, float]:
        """What `objective_rule: worst` measures the swarm against."""
        found = next(outcome for job, outcome in zip(jobs, outcomes, strict=True) if job.kind == "natural")
        if found.losses is None:
            raise ConfigError(
                f"search.objective_rule: worst needs the natural mixture's proxy, which failed ({found.error}). Lower "
                "search.proxy.lr or raise search.tokens_per_trial"
            )
        return found.losses

    def baselines(self) -> list[tuple[str, str, str | None]]:
        """(name, kind, criterion): natural, uniform, and top-k of every criterion."""
        top = [(f"topk_{criterion}", "topk", criterion) for criterion in self.criteria]
        return [("natural", "natural", None), ("uniform", "uniform", None), *top]

    def train(self, jobs: Sequence[ProxyJob], label: str) -> list[Outcome]:
        per_task = self.settings.trials_per_task
        outcomes = run_jobs(
            self.engine, self.progress, self.prepared.task, jobs, self.journal, per_task=per_task, label=label
        )
        failed = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if outcome.losses is None]
        if failed:
            shown = "; ".join(f"{job.name}: {outcome.error}" for job, outcome in failed[:_SHOWN_FAILURES])
            more = len(failed) - _SHOWN_FAILURES
            others = f"; and {more} more" if more > 0 else ""
            self.progress.say(f"{label}: {len(failed)} of {len(jobs)} failed and count for nothing ({shown}{others})")
        return outcomes

    def trial(self, job: ProxyJob, attempts: int, outcome: Outcome) -> Trial:
        return Trial(
            name=job.name,
            kind=job.kind,
            criterion=job.criterion,
            theta=job.theta,
            attempts=attempts,
            mixture=outcome.mixture,
            losses=outcome.losses,
            bits_per_byte=outcome.bits_per_byte,
            joint=self.joint(outcome.losses),
            predicted=None,
            error=outcome.error,
        )

    def joint(self, losses: Mapping[str, float] | None) -> float | None:
        return None if losses is None else self.objective.of(losses)

    def learn(self, usable: Sequence[Trial], noise: Noise | None) -> tuple[SearchModels, CrossValidation]:
        """Fit the regressors on all finished thetas, and say how well they rank held-out ones."""
        trained = Trained(
            [trial.mixture for trial in usable if trial.mixture],
            [trial.theta for trial in usable if trial.theta],
            np.array([[(trial.losses or {})[name] for name in self.targets] for trial in usable]),
        )
        chosen = self.settings.regressor
        models, validation = learn(
            chosen,
            self.objective,
            self.feature_sets,
            trained,
            self.counts.measuring,
            self.config.seed,
            noise,
            self.believe(trained),
        )
        for line in validation.in_words():
            self.progress.say(f"search: {line}")
        if chosen.kind == "auto":
            mix = ", ".join(f"{name} {part:.2f}" for name, part in models.full.shares_of_models().items())
            self.progress.say(f"search: regressor chosen by cross-validation of the trials: {mix}")
        return models, validation

    def confirm(self, proposals: Sequence[Proposal], trials: Sequence[Trial]) -> Confirmation:
        """Fresh proxies for the proposal and its rivals on the confirm halves."""
        chosen = self.settings.confirm
        mixtures = contestants(proposals, trials, chosen.rivals)
        if "topk" in chosen.rivals and all(mixture.kind != "topk" for mixture in mixtures):
            self.progress.say("search: no top-k could be trained at this budget; it is not among the rivals")
        jobs = confirmation_jobs(mixtures, chosen.seeds, self.config.seed)
        outcomes = self.train(jobs, "search: confirming the proposal")
        return confirmed(mixtures, outcomes, self.objective, chosen, self.constraints.broken_by)

    def target_facts(self, usable: Sequence[Trial]) -> dict[str, TargetFacts]:
        facts = {}
        for name, fact in self.prepared.facts.items():
            middle = float(median((trial.losses or {})[name] for trial in usable))
            facts[name] = TargetFacts(fact.weight, fact.eval_tokens, fact.eval_bytes, fact.unigram_entropy, middle)
            gap = fact.unigram_entropy - middle
            self.progress.say(
                f"search: {name}: the median proxy ends at {middle:.3f} nats per token, {abs(gap):.3f} "
                f"{'below' if gap >= 0 else 'ABOVE'} the entropy of the target's own token frequencies"
                f"{'' if gap >= 0 else ': raise search.tokens_per_trial, such a proxy knows word frequencies at best'}"
            )
        return facts

    def with_predictions(
        self, trials: Sequence[Trial], usable: Sequence[Trial], models: SearchModels, validation: CrossValidation
    ) -> list[Trial]:
        """Predicted beside measured: out of fold for thetas, by the final models for baselines they never saw."""
        held_out = {
            trial.name: {key: values[row] for key, values in validation.out_of_fold.items()}
            for row, trial in enumerate(usable)
        }
        found = []
        for trial in trials:
            predicted = held_out.get(trial.name)
            if trial.kind != "theta" and trial.mixture is not None and models.full_features.kind != "theta":
                counted = models.full_features.counted
                mixtures = Mixtures.of_names([trial.mixture], self.domains, self.criteria, counted)
                losses = models.full.predict(models.full_features.matrix(mixtures, None))[0]
                predicted = predicted_by_name(losses, models)
            found.append(replace(trial, predicted=predicted))
        return found
