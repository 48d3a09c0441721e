"""The sections of a run's spec, each frozen and checked when made; the field comments say what each value is."""

from __future__ import annotations

from dataclasses import dataclass, field

from rapid_dist.specs.parsing import require, require_choice, require_positive


@dataclass(frozen=True, kw_only=True)
class RuntimeSpec:
    """Speed and place only, so it is not in any digest.

    Nothing private depends on it beyond rounding. Public training draws other batches with another number of workers,
    and so gives other, equally good, public weights. An elastic group that changes its size begins a new attempt at the
    last checkpoint: the ledger pays again for the steps since, out of privacy.spare_steps.
    """

    num_workers: int = 1
    min_workers: int | None = None  # with max_workers: an elastic group, instead of num_workers
    max_workers: int | None = None
    resize_seconds: float = 60.0  # how often a healthy elastic group looks for room for more workers
    device: str = "cpu"
    num_cpus: int | None = None  # logical CPUs of a local Ray; None: what the machine has
    max_physical_batch_size: int = 1024  # (examples x noise draws) in memory at once
    max_failures: int = 2  # restarts of the worker group after a failure before it gives up; a resize is no failure

    def __post_init__(self) -> None:
        require_positive(self, "runtime", "num_workers", "max_physical_batch_size", "resize_seconds")
        low, high = self.min_workers, self.max_workers
        if low is not None or high is not None:
            require(
                low is not None and high is not None and 1 <= low <= high,
                f"runtime.min_workers is {low} and max_workers is {high}; expected both, with 1 <= min <= max",
            )
            require(
                self.num_workers == 1,
                f"runtime.num_workers is {self.num_workers} beside min_workers and max_workers; give one or the other",
            )
        require(self.max_failures >= 0, f"runtime.max_failures is {self.max_failures}; expected 0 or more")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers a group may have; equal when it is fixed."""
        if self.min_workers is None:
            return self.num_workers, self.num_workers
        return self.min_workers, self.max_workers


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where images come from: raw sources, or datasets already ingested (a folder with a manifest)."""

    private: str
    public: str
    test: str | None = None  # held-out real images with labels; only evaluation reads them
    image_size: int | None = None  # resize to this many pixels a side; None keeps the native size
    num_channels: int | None = None  # 1 grey, 3 RGB; None keeps what the images are
    num_classes: int = 0  # private classes, a public constant; 0 is unconditional
    class_names: tuple[str, ...] | None = None
    public_class_names: tuple[str, ...] | None = None
    skip_corrupt: bool = False

    def __post_init__(self) -> None:
        size, channels = self.image_size, self.num_channels
        require(size is None or 8 <= size <= 64, f"data.image_size is {size}; expected 8 to 64 pixels")
        require(channels in (None, 1, 3), f"data.num_channels is {channels}; expected 1 (grey) or 3 (RGB)")
        require(self.num_classes >= 0, f"data.num_classes is {self.num_classes}; expected 0 or more")
        names = self.class_names
        require(
            names is None or len(names) == self.num_classes,
            f"data.class_names has {len(names or ())} names but data.num_classes is {self.num_classes}",
        )


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """From images to latents, trained on public images only."""

    kind: str = "identity"  # identity: latents are pixels in [-1, 1]; conv: a small convolutional autoencoder
    latent_dim: int = 64
    width: int = 32  # channels of the first convolution
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_choice("autoencoder.kind", self.kind, ("identity", "conv"))
        require_positive(self, "autoencoder", "latent_dim", "width", "steps", "batch_size", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class DenoiserSpec:
    """The network that predicts the noise."""

    kind: str = "residual_mlp"  # residual_mlp on flat latents; unet on image-shaped latents
    width: int = 384  # hidden units of the MLP, channels of the UNet's first level
    num_blocks: int = 3
    embedding_dim: int = 128  # size of the timestep and class embedding

    def __post_init__(self) -> None:
        require_choice("denoiser.kind", self.kind, ("residual_mlp", "unet"))
        require_positive(self, "denoiser", "width", "num_blocks", "embedding_dim")
        require(self.embedding_dim % 2 == 0, f"denoiser.embedding_dim is {self.embedding_dim}; expected even")


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """The diffusion process and the two steps that divide it."""

    kind: str = "linear"  # linear betas, or cosine
    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    split_step: int = 700  # the private model trains on timestep < split_step
    query_step: int = 800  # the public model stops here and its estimate of x0 is the retrieval key

    def __post_init__(self) -> None:
        require_choice("schedule.kind", self.kind, ("linear", "cosine"))
        total, split, query = self.num_train_timesteps, self.split_step, self.query_step
        require(total >= 2, f"schedule.num_train_timesteps is {total}; expected 2 or more")
        require(
            0 < self.beta_start <= self.beta_end < 1,
            f"schedule betas are {self.beta_start} to {self.beta_end}; expected 0 < start <= end < 1",
        )
        require(1 <= split <= total, f"schedule.split_step is {split}; expected 1 to num_train_timesteps {total}")
        require(
            0 <= query < total,
            f"schedule.query_step is {query}; expected 0 to num_train_timesteps - 1 = {total - 1}",
        )
        require(
            split == total or split < query,
            f"schedule.split_step is {split} and schedule.query_step is {query}; split_step must be below "
            f"query_step (or equal to num_train_timesteps {total}, which turns retrieval off)",
        )

    @property
    def uses_retrieval(self) -> bool:
        """Whether sampling starts from the knowledge base; split_step == T is plain DP fine-tuning."""
        return self.split_step < self.num_train_timesteps


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """Public training of the denoiser over all timesteps."""

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 1e-3
    label_dropout: float = 0.1  # share of examples trained without their class, for guidance
    ema_decay: float = 0.999
    augment: bool = True  # small random affine maps of the public images
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "pretrain", "steps", "batch_size", "learning_rate")
        require(0 <= self.label_dropout < 1, f"pretrain.label_dropout is {self.label_dropout}; expected 0 to 1")
        require(0 <= self.ema_decay < 1, f"pretrain.ema_decay is {self.ema_decay}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ExtractorSpec:
    """The contrastive feature extractor over estimates of x0 at query_step."""

    feature_dim: int = 64
    width: int = 256
    steps: int = 600
    batch_size: int = 256
    learning_rate: float = 1e-3
    temperature: float = 0.2

    def __post_init__(self) -> None:
        names = ("feature_dim", "width", "steps", "batch_size", "learning_rate", "temperature")
        require_positive(self, "extractor", *names)


@dataclass(frozen=True, kw_only=True)
class KnowledgeBaseSpec:
    """Trajectories of public images and the index over their keys."""

    num_trajectories_per_image: int = 1  # noise draws a public image contributes
    num_shards: int = 2
    space: str = "cosine"  # hnswlib's words: l2, cosine, ip
    method: str = "hnsw"  # hnsw, or exact search over the same shards
    M: int = 16
    ef_construction: int = 200
    ef_search: int = 100
    num_prototypes: int = 64  # public clusters of the keys; private examples vote for them
    assignment: str = "hash"  # hash: rows spread evenly over shards; cluster: like keys together, so few probes suffice
    serving: str = "in_process"  # in_process: whoever asks holds all shards; service: Ray actors hold one shard each
    num_probes: int | None = None  # shards a query goes to, by public centroids; None: all of them
    label_map: dict[int, int] = field(default_factory=dict)  # public class -> private class; empty: no restriction

    def __post_init__(self) -> None:
        require_choice("knowledge_base.space", self.space, ("l2", "cosine", "ip"))
        require_choice("knowledge_base.method", self.method, ("hnsw", "exact"))
        require_choice("knowledge_base.assignment", self.assignment, ("hash", "cluster"))
        require_choice("knowledge_base.serving", self.serving, ("in_process", "service"))
        if self.num_probes is not None:
            require_positive(self, "knowledge_base", "num_probes")
        names = ("num_trajectories_per_image", "num_shards", "M", "ef_construction", "ef_search", "num_prototypes")
        require_positive(self, "knowledge_base", *names)


@dataclass(frozen=True, kw_only=True)
class PrivacySpec:
    """Everything the guarantee depends on. All values are public constants; none is read off the private data."""

    target_epsilon: float
    target_delta: float
    sample_rate: float  # Poisson inclusion probability of a record per step
    nominal_size: int  # a public statement of about how many private records there are; never counted
    neighboring_relation: str = "add_or_remove_one"
    unit: str = "one image"
    max_grad_norm: float = 1.0
    spare_steps: int = 0  # steps paid for beforehand that restarts may lose
    votes_noise_multiplier: float | None = None  # noisy class votes over public prototypes; None: no release
    noise_multiplier: float | None = None  # of training; None: the least that fits the target, found by calibration
    study: str | None = None  # a study in the dataset's ledger whose charges this run's statement counts as well
    debug_fixed_key: int | None = None  # deterministic noise: stamps NOT PRIVATE on everything

    def __post_init__(self) -> None:
        require(
            0 < self.target_epsilon <= 100,
            f"privacy.target_epsilon is {self.target_epsilon}; expected above 0 and at most 100",
        )
        require(0 < self.target_delta < 1, f"privacy.target_delta is {self.target_delta}; expected between 0 and 1")
        require(0 < self.sample_rate <= 1, f"privacy.sample_rate is {self.sample_rate}; expected above 0, at most 1")
        require_positive(self, "privacy", "nominal_size", "max_grad_norm")
        require(
            self.target_delta <= 1 / self.nominal_size,
            f"privacy.target_delta is {self.target_delta:g}, more than 1/N = {1 / self.nominal_size:.3g} for "
            f"nominal_size {self.nominal_size}; at that delta a whole record may leak; use at most 1/(10 N)",
        )
        require_choice("privacy.neighboring_relation", self.neighboring_relation, ("add_or_remove_one",))
        require(self.spare_steps >= 0, f"privacy.spare_steps is {self.spare_steps}; expected 0 or more")
        for name in ("votes_noise_multiplier", "noise_multiplier"):
            if getattr(self, name) is not None:
                require_positive(self, "privacy", name)

    @property
    def expected_batch_size(self) -> float:
        """The public constant that the noised gradient sum is divided by."""
        return self.sample_rate * self.nominal_size


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Private training; none of these values changes epsilon except steps."""

    steps: int = 500
    objective: str = "denoise"  # denoise: fresh noise; surrogate: the path from the retrieved latent
    timestep_power: float = 1.0  # timesteps are split_step * u^power, u uniform; above 1 favours small timesteps
    noise_multiplicity: int = 4  # noise draws averaged within an example before clipping
    learning_rate: float = 1e-3
    decay_fraction: float = 0.3  # the last share of steps over which the learning rate falls to zero
    ema_decay: float = 0.99
    label_dropout: float = 0.1  # share of examples trained without their class; 0 turns guidance off
    class_init: str = "distinct"  # where private class embeddings start: distinct, votes, zero
    checkpoint_every: int = 50  # steps; also the block in which the ledger is charged
    seed: int = 0  # addresses timesteps and diffusion noise; not the privacy noise

    def __post_init__(self) -> None:
        require_choice("training.objective", self.objective, ("denoise", "surrogate"))
        require_choice("training.class_init", self.class_init, ("distinct", "votes", "zero"))
        require_positive(self, "training", "steps", "noise_multiplicity", "learning_rate", "checkpoint_every")
        require_positive(self, "training", "timestep_power")
        require(0 <= self.decay_fraction <= 1, f"training.decay_fraction is {self.decay_fraction}; expected 0 to 1")
        require(0 <= self.ema_decay < 1, f"training.ema_decay is {self.ema_decay}; expected 0 to 1")
        require(0 <= self.label_dropout < 1, f"training.label_dropout is {self.label_dropout}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """How samples are drawn; all of it is post-processing of the private model."""

    num_samples: int = 20000
    num_steps: int = 100  # DDIM steps a full run from T to 0 would take
    eta: float = 1.0  # 1 as stochastic as DDPM; 0 is deterministic DDIM, where equal starts give equal images
    guidance: float = 0.0  # classifier-free guidance; 0 is off and costs one evaluation a step
    starts: str = "nearest"  # nearest: the public state's neighbour; votes: within a prototype drawn by class votes
    class_proportions: tuple[float, ...] | None = None  # None: uniform over data.num_classes
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "sampling", "num_samples", "num_steps", "batch_size")
        require(0 <= self.eta <= 1, f"sampling.eta is {self.eta}; expected 0 to 1")
        require(self.guidance >= 0, f"sampling.guidance is {self.guidance}; expected 0 or more")
        require_choice("sampling.starts", self.starts, ("nearest", "votes"))
        if self.class_proportions is not None:
            total = sum(self.class_proportions)
            valid = all(p >= 0 for p in self.class_proportions) and abs(total - 1) < 1e-6
            require(valid, f"sampling.class_proportions sum to {total:g}; expected non-negative shares that sum to 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How usefulness and likeness are measured."""

    classifier_epochs: int = 8
    classifier_batch_size: int = 128
    classifier_learning_rate: float = 2e-3
    feature_weights: str | None = None  # a TorchScript Inception; None: a small network trained on public labels
    max_likeness_examples: int = 5000
    grid_columns: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("classifier_epochs", "classifier_batch_size", "classifier_learning_rate", "max_likeness_examples")
        require_positive(self, "evaluation", *names, "grid_columns")
