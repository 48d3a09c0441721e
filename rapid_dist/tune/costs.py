"""What a trial may cost: a pure function from a proposal to a complete spec with its noise, in each mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rapid_dist.errors import SpecError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.calibration import calibrate_best_run, calibrate_noise_multiplier, compose_noise_multiplier
from rapid_dist.privacy.charges import BestRunCharge, Charge, SubsetCharge, merge_charges, training_charge
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.release import histogram_charge
from rapid_dist.privacy.statistics import statistics_charge
from rapid_dist.seeding import make_rng
from rapid_dist.specs import RunSpec
from rapid_dist.specs.parsing import from_mapping
from rapid_dist.specs.study import PUBLIC_PROXY, REPEAT_SELECT, SUBSET, Axis, StudySpec, TuneSpec
from rapid_dist.training.plan import build_plan

Proposal = Mapping[str, Any]


def drawn_proposals(tune: TuneSpec, run: RunSpec, *, count: int, has_base: bool, seed: int) -> list[dict[str, Any]]:
    """count points of the space, each drawn on its own; the first is the spec as it stands when has_base."""
    base = [base_proposal(tune.space, run)] if has_base else []
    drawn = [
        {name: axis.draw(make_rng(seed, name, index)) for name, axis in tune.space.items()}
        for index in range(len(base), count)
    ]
    return [*base, *drawn][:count]


def base_proposal(space: Mapping[str, Axis], run: RunSpec) -> dict[str, Any]:
    """The settings of the space as the spec has them now."""
    return {name: _value_of(run, name) for name in space}


def apply_proposal(run: RunSpec, proposal: Proposal) -> RunSpec:
    """The run spec with the proposal's settings. Raises SpecError when together they make no sense.

    A query step that the proposed split has reached moves up with it, by the distance that the spec had.
    """
    plain = _plain_with(run, proposal)
    schedule = plain["schedule"]
    split, query, total = (schedule[k] for k in ("split_step", "query_step", "num_train_timesteps"))
    if query <= split < total:
        distance = max(1, run.schedule.query_step - run.schedule.split_step)
        if split + 1 >= total:
            raise SpecError(
                f"schedule.split_step is {split} of {total} timesteps, which leaves no room for a query step above it; "
                f"propose at most {total - 2}, or {total} for no retrieval"
            )
        schedule["query_step"] = min(split + distance, total - 1)
    return from_mapping(RunSpec, plain, "")


def with_settings(run: RunSpec, settings: Mapping[str, Any]) -> RunSpec:
    """The spec with other values of dotted settings, checked as a whole."""
    return from_mapping(RunSpec, _plain_with(run, settings), "")


def _plain_with(run: RunSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    plain = run.to_plain()
    for name, value in settings.items():
        section, _, key = name.partition(".")
        plain[section][key] = value
    return plain


def _value_of(run: RunSpec, name: str) -> Any:
    section, _, key = name.partition(".")
    return run.to_plain()[section][key]


ACCURACY = "noisy accuracy"
_MOST_EPSILON = 100.0


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """A trial as a run: its complete spec, whose noise and target are stated, and all it may charge."""

    spec: RunSpec
    charges: tuple[Charge, ...]

    @property
    def plan(self) -> PrivacyPlan:
        return build_plan(self.spec)


@dataclass(frozen=True, kw_only=True)
class StudyBudget:
    """What all trials together may cost on the data they read. epsilon is None where that data is public."""

    epsilon: float | None
    delta: float


def study_budget(study: StudySpec) -> StudyBudget:
    """The budget of the trials: of the whole data set, of the subset, or none to speak of."""
    privacy, tune = study.run.privacy, study.tune
    if tune.cost_mode == PUBLIC_PROXY:
        return StudyBudget(epsilon=None, delta=privacy.target_delta)
    if tune.cost_mode == SUBSET:
        # On the whole the subset's delta counts only in part; what is spent there is delta_share of the target.
        return StudyBudget(
            epsilon=tune.subset.epsilon, delta=privacy.target_delta * tune.subset.delta_share / tune.subset.sample_rate
        )
    return StudyBudget(epsilon=privacy.target_epsilon, delta=privacy.target_delta)


def trial_charges(spec: RunSpec, tune: TuneSpec, noise_multiplier: float) -> tuple[Charge, ...]:
    """Everything a trial may charge with this noise, spare steps and noisy scores included."""
    return (*_other_charges(spec, tune), _training_charge(spec, noise_multiplier))


def _training_charge(spec: RunSpec, noise_multiplier: float) -> Charge:
    return training_charge(
        sample_rate=spec.privacy.sample_rate,
        noise_multiplier=noise_multiplier,
        num_steps=spec.training.steps + spec.privacy.spare_steps,
    )


def _other_charges(spec: RunSpec, tune: TuneSpec) -> tuple[Charge, ...]:
    found = _released(spec)
    if tune.score_name == "noisy_accuracy":
        found += [accuracy_charge(tune)] * tune.num_rungs
    return tuple(found)


def _released(spec: RunSpec) -> list[Charge]:
    """What a run releases besides the steps of its training.

    Raises SpecError for class statistics without a stated noise, whose cost would change with a trial's target.
    """
    votes, statistics = spec.privacy.votes_noise_multiplier, spec.statistics.noise_multiplier
    if spec.releases_statistics and statistics is None:
        raise SpecError("a study that releases class statistics states their noise; set statistics.noise_multiplier")
    found = [] if votes is None else [histogram_charge(votes)]
    return found if statistics is None else [*found, statistics_charge(statistics)]


def accuracy_charge(tune: TuneSpec) -> Charge:
    """What one noisy accuracy costs: one count over all records, to which each adds at most 1."""
    return histogram_charge(tune.accuracy_noise_multiplier, purpose=ACCURACY)


def plan_trial(
    study: StudySpec,
    proposal: Proposal,
    *,
    num_private: int | None = None,
    num_classes: int | None = None,
    already: Sequence[Charge] = (),
    trials_left: int = 1,
) -> TrialPlan:
    """The trial of a proposal, whose noise is calibrated to what the mode has left for it.

    num_private, num_classes: of the pretend-private images, under public_proxy. already: all that earlier trials
    charged or may still charge, and trials_left, this one included: compose and subset leave room for as many more
    like it.
    Guarantee: the charges of the trial, beside already, fit the study's budget; nothing is read off private data.
    Raises SpecError for settings that make no sense together, or when no noise fits.
    """
    spec, tune = apply_proposal(study.run, proposal), study.tune
    budget = study_budget(study)
    if tune.cost_mode == PUBLIC_PROXY:
        return _proxy_trial(study, spec, num_private, num_classes)
    if tune.cost_mode == SUBSET:
        spec = _on_subset(spec, study)
    if tune.cost_mode == REPEAT_SELECT:
        noise = calibrate_best_run(
            target_epsilon=budget.epsilon,
            delta=budget.delta,
            sample_rate=spec.privacy.sample_rate,
            num_steps=spec.training.steps + spec.privacy.spare_steps,
            other_charges=_other_charges(spec, tune),
            mean_runs=tune.selection.mean_runs,
            num_runs=tune.selection.num_runs,
        )
    else:
        noise = compose_noise_multiplier(
            target_epsilon=budget.epsilon,
            delta=budget.delta,
            already=already,
            sample_rate=spec.privacy.sample_rate,
            num_steps=spec.training.steps + spec.privacy.spare_steps,
            per_trial=_other_charges(spec, tune),
            trials_left=trials_left,
        )
    return _stated(spec, tune, noise, budget.delta)


def _proxy_trial(study: StudySpec, spec: RunSpec, num_private: int, num_classes: int) -> TrialPlan:
    """As the private run would be: its noise, clip, steps and expected batch, on the pretend-private images.

    The same batch of fewer records is a larger rate, so what the trial would cost them is more than the target;
    they are public, so it costs nothing. More of them than 1 / delta are given a smaller delta, which changes no noise.
    """
    if study.tune.score_name == "proxy_accuracy" and num_classes < 2:
        raise SpecError(
            f"tune.objective is 'proxy_accuracy' but the images that pretend to be private have {num_classes} classes; "
            "use labelled public images with two or more in tune.proxy.private_classes, or objective public_fid"
        )
    real = build_plan(spec)
    rate = min(1.0, real.expected_batch_size / num_private)
    delta = min(spec.privacy.target_delta, 1 / num_private)
    settings = {
        "privacy.sample_rate": rate,
        "privacy.nominal_size": num_private,
        "privacy.target_delta": delta,
        "privacy.target_epsilon": _MOST_EPSILON,
        "data.num_classes": num_classes,
        "data.class_names": None,
        "knowledge_base.label_map": {},
        "sampling.class_proportions": None,
    }
    return _stated(with_settings(spec, settings), study.tune, real.noise_multiplier, delta)


def _on_subset(spec: RunSpec, study: StudySpec) -> RunSpec:
    """The same expected batch out of a subset: a larger rate over fewer records."""
    privacy, rate = spec.privacy, study.tune.subset.sample_rate
    settings = {
        "privacy.nominal_size": max(1, round(privacy.nominal_size * rate)),
        "privacy.sample_rate": min(1.0, privacy.sample_rate / rate),
        "privacy.target_delta": study_budget(study).delta,
    }
    return with_settings(spec, settings)


def _stated(spec: RunSpec, tune: TuneSpec, noise_multiplier: float, delta: float) -> TrialPlan:
    """The spec with its noise and, as target, what all its charges cost together: so much a trial may spend."""
    charges = trial_charges(spec, tune, noise_multiplier)
    alone = epsilon_pld(charges, delta)
    if alone > _MOST_EPSILON:
        raise SpecError(
            f"a trial with noise_multiplier {noise_multiplier:g} and sample_rate {spec.privacy.sample_rate:g} costs "
            f"epsilon {alone:.1f} on its own, over {_MOST_EPSILON:g}; use more images in its place, or fewer steps"
        )
    settings: dict[str, Any] = {
        "privacy.noise_multiplier": noise_multiplier,
        "privacy.target_epsilon": _rounded_up(alone),
    }
    return TrialPlan(spec=with_settings(spec, settings), charges=charges)


def study_charge(study: StudySpec) -> Charge | BestRunCharge | SubsetCharge | None:
    """The one charge that pays for a whole study before its first trial; None where trials pay one by one, or nothing.

    Guarantee: under repeat_select it covers the winner of the secret number of trials, under subset everything that
    the trials learn about the whole data set through the subset.
    """
    tune = study.tune
    budget = study_budget(study)
    if tune.cost_mode == SUBSET:
        return SubsetCharge(
            subset_rate=tune.subset.sample_rate,
            epsilon=budget.epsilon,
            delta=budget.delta,
            purpose="all trials on a secret subset",
        )
    if tune.cost_mode == REPEAT_SELECT:
        # Every candidate costs the same, so that of the spec as it stands is that of all.
        return BestRunCharge(
            charges=plan_trial(study, {}).charges,
            num_runs=tune.selection.num_runs,
            mean_runs=tune.selection.mean_runs,
            delta=budget.delta,
            purpose="the best of a secret number of trials",
        )
    return None


def final_spec(study: StudySpec, proposal: Proposal) -> RunSpec:
    """The spec of a private run with these settings, for after a study on public images or on a subset.

    Guarantee: with what the study itself cost it stays within the study's target.
    Raises SpecError when the trials have left nothing.
    """
    spec = apply_proposal(study.run, proposal)
    if study.tune.cost_mode != SUBSET:
        return spec
    privacy, released = spec.privacy, tuple(_released(spec))
    noise = calibrate_noise_multiplier(
        target_epsilon=privacy.target_epsilon,
        delta=privacy.target_delta,
        sample_rate=privacy.sample_rate,
        num_steps=spec.training.steps + privacy.spare_steps,
        other_charges=(*released, study_charge(study)),
    )
    charges = (*released, _training_charge(spec, noise))
    alone = _rounded_up(epsilon_pld(charges, privacy.target_delta))
    return with_settings(spec, {"privacy.noise_multiplier": noise, "privacy.target_epsilon": alone})


def _rounded_up(epsilon: float) -> float:
    """To 6 decimals, so that it reads well and is never less."""
    return math.ceil(epsilon * 1e6) / 1e6


def expected_cost(study: StudySpec) -> dict[str, Any]:
    """What the study will cost, in words, and the noise multiplier of a trial of the spec as it stands.

    Raises SpecError when no noise fits.
    """
    tune, privacy, budget = study.tune, study.run.privacy, study_budget(study)
    if tune.cost_mode == PUBLIC_PROXY:
        words = "nothing: no private record is read"
        noise = build_plan(apply_proposal(study.run, {})).noise_multiplier
        if tune.mode is None:
            words += " (tune.mode is not named, so no epsilon will be stated)"
        return {"words": words, "noise_multiplier": noise}
    noise = plan_trial(study, {}, trials_left=tune.num_trials).spec.privacy.noise_multiplier
    charge = study_charge(study)
    if charge is None:
        words = f"at most epsilon {budget.epsilon:g} at delta {budget.delta:g}, all {tune.num_trials} trials together"
    else:
        words = f"epsilon {charge.bound[0]:.4f} at delta {charge.bound[1]:g}, for {charge.purpose}"
        if tune.cost_mode == SUBSET:
            words += f"; the final run may bring it to {privacy.target_epsilon:g} at delta {privacy.target_delta:g}"
    return {"words": words, "noise_multiplier": noise}


def exceeds_plan(charged: Sequence[Charge], planned: Sequence[Charge]) -> bool:
    """Whether any mechanism was used more often than planned, whatever the epsilon of all together.

    The bound of repeat_select is of the planned mechanisms at every Renyi order, so an equal epsilon at one delta made
    of other mechanisms is not covered by it.
    """
    room = {(c.mechanism, c.sample_rate, c.noise_multiplier): c.num_steps for c in merge_charges(planned)}
    used = {(c.mechanism, c.sample_rate, c.noise_multiplier): c.num_steps for c in merge_charges(charged)}
    return any(steps > room.get(key, 0) for key, steps in used.items())
