"""Differential privacy for any trainer: noise and epsilon by hand, plans, ledgers, clipped gradients and noise.

What a training costs, and the noise that a budget needs:

>>> from rapid_dist import privacy
>>> noise_multiplier = privacy.calibrate(target_epsilon=1, delta=1e-5, sample_rate=0.1, steps=20)
>>> noise_multiplier
2.1024
>>> privacy.epsilon(noise_multiplier=noise_multiplier, sample_rate=0.1, steps=20, delta=1e-5) <= 1
True

A plan joins rate, clip, noise, steps and their price, and a ledger is charged before any noise is drawn. Here a
classifier of 100 records takes one step. Its loss function gives the loss of every record; that no record changes the
loss of another is looked at on made-up ones:

>>> import numpy as np, torch
>>> from torch.nn.functional import cross_entropy
>>> ids, features, labels = np.arange(100), torch.randn(100, 5), torch.randint(3, (100,))
>>> model = torch.nn.Linear(5, 3)
>>> def loss_fn(model, features, labels):
...     return cross_entropy(model(features), labels, reduction="none")
>>> privacy.check_network(loss_fn, model, (torch.randn(3, 5), torch.arange(3)))
>>> plan = privacy.make_plan(
...     target_epsilon=1, target_delta=1e-5, sample_rate=0.1, expected_batch_size=10, steps=20, max_grad_norm=1.0
... )
>>> plan.noise_multiplier == noise_multiplier
True
>>> ledger = privacy.open_ledger(folder, target_epsilon=1, target_delta=1e-5)
>>> attempt = ledger.begin_attempt(plan.to_plain(), planned=plan.planned_charges())
>>> paid = ledger.charge(plan.training_charge(1), attempt=attempt, first_step=0)
>>> (step,) = plan.private_steps(privacy.RunKey.fresh(), paid)
>>> chosen = torch.as_tensor(step.included(ids))
>>> local_sum = step.clipped_sum(loss_fn, model, (features[chosen], labels[chosen]))
>>> gradient = step.release(local_sum, privacy.OneWorker())
>>> weights = torch.nn.utils.parameters_to_vector(model.parameters()) - 0.1 * gradient.float()
>>> torch.nn.utils.vector_to_parameters(weights, model.parameters())
>>> privacy.read_ledger(folder).spent_epsilon() < 1
True

Names are imported when they are first used. README.md beside this file has the whole guarantee.
"""

from typing import TYPE_CHECKING

from rapid_dist.lazy import lazy_names

if TYPE_CHECKING:
    from rapid_dist.privacy.accounting import EpsilonResult as EpsilonResult
    from rapid_dist.privacy.accounting import check_agreement as check_agreement
    from rapid_dist.privacy.accounting import compute_epsilon as compute_epsilon
    from rapid_dist.privacy.calibration import calibrate_noise_multiplier as calibrate_noise_multiplier
    from rapid_dist.privacy.charges import Charge as Charge
    from rapid_dist.privacy.charges import training_charge as training_charge
    from rapid_dist.privacy.clipping import clip_factors as clip_factors
    from rapid_dist.privacy.clipping import clipped_gradient_sum as clipped_gradient_sum
    from rapid_dist.privacy.keyed import RunKey as RunKey
    from rapid_dist.privacy.ledger import Ledger as Ledger
    from rapid_dist.privacy.ledger import LedgerView as LedgerView
    from rapid_dist.privacy.ledger import PaidSteps as PaidSteps
    from rapid_dist.privacy.library import calibrate as calibrate
    from rapid_dist.privacy.library import epsilon as epsilon
    from rapid_dist.privacy.library import join_ledger as join_ledger
    from rapid_dist.privacy.library import make_plan as make_plan
    from rapid_dist.privacy.library import open_ledger as open_ledger
    from rapid_dist.privacy.library import read_ledger as read_ledger
    from rapid_dist.privacy.network import check_network as check_network
    from rapid_dist.privacy.noise import add_noise_on_grid as add_noise_on_grid
    from rapid_dist.privacy.noise import draw_gaussian as draw_gaussian
    from rapid_dist.privacy.noise import grid_for as grid_for
    from rapid_dist.privacy.plan import OneWorker as OneWorker
    from rapid_dist.privacy.plan import PrivacyPlan as PrivacyPlan
    from rapid_dist.privacy.statement import build_statement as build_statement
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Charge": "rapid_dist.privacy.charges:Charge",
            "EpsilonResult": "rapid_dist.privacy.accounting:EpsilonResult",
            "Ledger": "rapid_dist.privacy.ledger:Ledger",
            "LedgerView": "rapid_dist.privacy.ledger:LedgerView",
            "OneWorker": "rapid_dist.privacy.plan:OneWorker",
            "PaidSteps": "rapid_dist.privacy.ledger:PaidSteps",
            "PrivacyPlan": "rapid_dist.privacy.plan:PrivacyPlan",
            "RunKey": "rapid_dist.privacy.keyed:RunKey",
            "add_noise_on_grid": "rapid_dist.privacy.noise:add_noise_on_grid",
            "build_statement": "rapid_dist.privacy.statement:build_statement",
            "calibrate": "rapid_dist.privacy.library:calibrate",
            "calibrate_noise_multiplier": "rapid_dist.privacy.calibration:calibrate_noise_multiplier",
            "check_agreement": "rapid_dist.privacy.accounting:check_agreement",
            "check_network": "rapid_dist.privacy.network:check_network",
            "clip_factors": "rapid_dist.privacy.clipping:clip_factors",
            "clipped_gradient_sum": "rapid_dist.privacy.clipping:clipped_gradient_sum",
            "compute_epsilon": "rapid_dist.privacy.accounting:compute_epsilon",
            "draw_gaussian": "rapid_dist.privacy.noise:draw_gaussian",
            "epsilon": "rapid_dist.privacy.library:epsilon",
            "grid_for": "rapid_dist.privacy.noise:grid_for",
            "join_ledger": "rapid_dist.privacy.library:join_ledger",
            "make_plan": "rapid_dist.privacy.library:make_plan",
            "open_ledger": "rapid_dist.privacy.library:open_ledger",
            "read_ledger": "rapid_dist.privacy.library:read_ledger",
            "training_charge": "rapid_dist.privacy.charges:training_charge",
        },
    )

__all__ = [
    "Charge",
    "EpsilonResult",
    "Ledger",
    "LedgerView",
    "OneWorker",
    "PaidSteps",
    "PrivacyPlan",
    "RunKey",
    "add_noise_on_grid",
    "build_statement",
    "calibrate",
    "calibrate_noise_multiplier",
    "check_agreement",
    "check_network",
    "clip_factors",
    "clipped_gradient_sum",
    "compute_epsilon",
    "draw_gaussian",
    "epsilon",
    "grid_for",
    "join_ledger",
    "make_plan",
    "open_ledger",
    "read_ledger",
    "training_charge",
]
