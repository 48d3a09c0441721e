"""The sections of a spec that say what is released of private records: privacy, statistics and private training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt, model_validator

from rapid_dist.specs.parsing import Count, Number, PositiveNumber, require, settings


@settings("privacy")
class PrivacySpec:
    """Everything the guarantee depends on. All values are public constants; none is read off the private data."""

    target_epsilon: Number = Field(
        gt=0, le=100, description="The epsilon that all releases of the run together may not exceed."
    )
    target_delta: Number = Field(
        gt=0, lt=1, description="The delta that epsilon is stated at, at most 1/nominal_size; 1/(10 N) is customary."
    )
    sample_rate: Number = Field(
        gt=0,
        le=1,
        description="The probability with which a private record is in a training step (Poisson sampling), over all "
        "workers together.",
    )
    nominal_size: Count = Field(
        description="A public statement of about how many private records there are. It is never counted."
    )
    neighboring_relation: Literal["add_or_remove_one"] = Field(
        default="add_or_remove_one", description="What one record may change for the guarantee: be in the data or not."
    )
    unit: str = Field(default="one image", description="What one private record is, in the words of the statement.")
    max_grad_norm: PositiveNumber = Field(
        default=1.0, description="The L2 norm that each record's gradient is clipped to before the sum."
    )
    spare_steps: StrictInt = Field(
        default=0, ge=0, description="How many training steps are paid for beforehand that restarts may lose."
    )
    votes_noise_multiplier: PositiveNumber | None = Field(
        default=None,
        description="Noise stddev over sensitivity of the class votes for public prototypes, a charged release; null "
        "releases no votes.",
    )
    noise_multiplier: PositiveNumber | None = Field(
        default=None,
        description="Noise stddev over max_grad_norm in training; null is the least that fits the target, found by "
        "calibration.",
    )
    study: str | None = Field(
        default=None,
        description="The name of a study in the dataset's ledger whose charges this run's statement counts as well; "
        "null is none.",
    )
    debug_fixed_key: StrictInt | None = Field(
        default=None,
        description="A fixed key that makes noise repeatable for debugging. It stamps NOT PRIVATE on everything; null "
        "draws a secret key.",
    )

    @model_validator(mode="after")
    def _check(self) -> PrivacySpec:
        require(
            self.target_delta <= 1 / self.nominal_size,
            f"privacy.target_delta is {self.target_delta:g}, more than 1/N = {1 / self.nominal_size:.3g} for "
            f"nominal_size {self.nominal_size}; at that delta a whole record may leak; use at most 1/(10 N)",
        )
        return self

    @property
    def expected_batch_size(self) -> float:
        """The public constant that the noised gradient sum is divided by."""
        return self.sample_rate * self.nominal_size


@settings("training")
class TrainingSpec:
    """Private training; none of these values changes epsilon except steps."""

    steps: StrictInt = Field(
        default=500,
        ge=0,
        description="How many private training steps there are, each paid for in the ledger; 0 trains nothing, where "
        "the release of statistics is all that is wanted.",
    )
    objective: Literal["denoise", "surrogate"] = Field(
        default="denoise", description="denoise learns on fresh noise, surrogate on the path from the retrieved latent."
    )
    timestep_power: PositiveNumber = Field(
        default=1.0,
        description="Timesteps are split_step * u^power with u uniform in [0, 1); above 1 favours small timesteps.",
    )
    noise_multiplicity: Count = Field(
        default=4, description="How many noise draws are averaged within an example before its gradient is clipped."
    )
    learning_rate: PositiveNumber = Field(default=1e-3, description="The learning rate of private training.")
    decay_fraction: Number = Field(
        default=0.3, ge=0, le=1, description="The last share of the steps, over which the learning rate falls to zero."
    )
    ema_decay: Number = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="The decay a step of the moving average of weights; 0 keeps the last weights.",
    )
    label_dropout: Number = Field(
        default=0.1, ge=0, lt=1, description="The share of examples trained without their class; 0 turns guidance off."
    )
    class_init: Literal["distinct", "votes", "zero"] = Field(
        default="distinct",
        description="Where private class embeddings start: at distinct vectors, at what the class votes say, or at "
        "zero.",
    )
    warm_up: Literal["none", "statistics"] = Field(
        default="none",
        description="statistics trains the private model on draws of the released class statistics before its first "
        "private step, which costs nothing.",
    )
    warm_up_steps: Count = Field(
        default=1000,
        description="How many steps the warm-up has, with pretrain's batch_size and learning_rate.",
    )
    checkpoint_every: Count = Field(
        default=50,
        description="How many steps lie between checkpoints; it is also the block in which the ledger is charged.",
    )
    seed: StrictInt = Field(
        default=0, description="The seed of timesteps and diffusion noise. The privacy noise has a secret."
    )


@settings("statistics")
class StatisticsSpec:
    """One charged release of the count, mean and second moment of each class's latents, and what is made of it.

    sampling.starts: statistics or training.warm_up: statistics asks for it. A Gaussian for each part
    of each class is fitted to what was released.
    """

    noise_multiplier: PositiveNumber | None = Field(
        default=None,
        description="Noise stddev over sensitivity; null is the least that fits the release's share of the target.",
    )
    epsilon_share: Number = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="How much of privacy.target_epsilon the release alone costs, where noise_multiplier is null and a "
        "model is trained with the rest; without training the release has all of it.",
    )
    clip_norm: PositiveNumber | None = Field(
        default=None,
        description="The L2 norm that each record's latent is clipped to before anything is summed; null is the root "
        "of the number of latent coordinates, about the norm of a public latent.",
    )
    count_share: Number = Field(
        default=0.02, gt=0, lt=1, description="The share of a record's squared norm that its count takes."
    )
    mean_share: Number = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="The share of a record's squared norm that its latent takes; its second moment has the rest.",
    )

    halvings: StrictInt | None = Field(
        default=None,
        ge=0,
        le=10,
        description="How many leading latent coordinates part each class in two, each part with a Gaussian of its own; "
        "null is as many as the noise allows for nominal_size records, at most 6.",
    )

    @model_validator(mode="after")
    def _check(self) -> StatisticsSpec:
        total = self.count_share + self.mean_share
        require(total < 1, f"statistics.count_share and mean_share are {total:g} together; expected less than 1")
        return self
