"""The sections of a run's spec: every setting with its type, its range, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, WithJsonSchema, model_validator

from rapid_dist.specs.parsing import Count, ListOf, Number, PositiveNumber, Section, require, settings
from rapid_dist.specs.reading import ReadingsSpec
from rapid_dist.storage.store import KNOWN_SCHEMES, unknown_scheme


def _known_uri(uri: str) -> str:
    if unknown_scheme(uri) is not None:
        raise ValueError(KNOWN_SCHEMES)
    return uri


def _grey_or_rgb(channels: int) -> int:
    if channels not in (1, 3):
        raise ValueError("1 (grey) or 3 (RGB)")
    return channels


Uri = Annotated[str, AfterValidator(_known_uri)]
Channels = Annotated[StrictInt, AfterValidator(_grey_or_rgb), WithJsonSchema({"type": "integer", "enum": [1, 3]})]


@settings("runtime")
class RuntimeSpec:
    """Speed and place only, so it is not in any digest.

    Nothing private depends on it beyond rounding. Public training draws other batches with another number of workers,
    and so gives other, equally good, public weights. An elastic group that changes its size begins a new attempt at the
    last checkpoint: the ledger pays again for the steps since, out of privacy.spare_steps.
    """

    num_workers: Count = Field(default=1, description="How many training workers a fixed group has.")
    min_workers: StrictInt | None = Field(
        default=None,
        description="The fewest workers of an elastic group, at least 1. Give it with max_workers, instead of "
        "num_workers; null is a fixed group.",
    )
    max_workers: StrictInt | None = Field(
        default=None, description="The most workers of an elastic group, at least min_workers; null is a fixed group."
    )
    resize_seconds: PositiveNumber = Field(
        default=60.0, description="How often, in seconds, a healthy elastic group looks for room for more workers."
    )
    device: str = Field(default="cpu", description="The torch device that workers compute on: cpu, cuda or cuda:N.")
    num_cpus: StrictInt | None = Field(
        default=None, description="How many logical CPUs a local Ray may use; null is what the machine has."
    )
    max_physical_batch_size: Count = Field(
        default=1024,
        description="How many rows (examples x noise draws) a worker holds in memory at once. It changes no result.",
    )
    clipping_engine: Literal["auto", "vmap", "linear", "opacus"] = Field(
        default="auto",
        description="How per-example gradients are computed; all ways give the same sum to rounding. auto: linear for "
        "a network of Linear layers alone, else vmap, which takes any; opacus: the hooks of GradSampleModule, the "
        "reference, which needs the most memory.",
    )
    max_failures: StrictInt = Field(
        default=2,
        ge=0,
        description="How often the worker group is restarted after a failure before the run gives up. A resize is no "
        "failure.",
    )

    @model_validator(mode="after")
    def _check(self) -> RuntimeSpec:
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
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers a group may have; equal when it is fixed."""
        if self.min_workers is None:
            return self.num_workers, self.num_workers
        return self.min_workers, self.max_workers


@settings("data")
class DataSpec:
    """Where images come from: raw sources, or datasets already ingested (a folder with a manifest)."""

    private: Uri = Field(
        description="The private images: a local path, file:// or s3://; a folder of class folders, Parquet or .npz, "
        "or a dataset that was ingested as private."
    )
    public: Uri = Field(description="The public images, in the same forms as the private ones.")
    test: Uri | None = Field(
        default=None,
        description="Held-out real images with labels, in the same forms. Only evaluation reads them; null measures "
        "no accuracy.",
    )
    image_size: StrictInt | None = Field(
        default=None,
        ge=8,
        le=64,
        description="Images are resized to this many pixels a side; null keeps the native size.",
    )
    num_channels: Channels | None = Field(
        default=None, description="Channels of the images: 1 is grey, 3 is RGB; null keeps what the images are."
    )
    num_classes: StrictInt = Field(
        default=0,
        ge=0,
        description="How many private classes there are, a public constant that is never counted; 0 makes images "
        "without classes.",
    )
    class_names: ListOf[str] | None = Field(
        default=None,
        description="The names of the private classes in the order of their labels, one for each of num_classes. Quote "
        "names such as '010' and 'no'.",
    )
    public_class_names: ListOf[str] | None = Field(
        default=None, description="The names of the public classes in the order of their labels."
    )
    skip_corrupt: StrictBool = Field(
        default=False,
        description="Whether images that cannot be decoded are left out and counted in the manifest. If false, they "
        "stop the run.",
    )
    reading: Section[ReadingsSpec] = Field(
        default_factory=ReadingsSpec, description="How the files of each source are read where they do not tell."
    )

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        names = self.class_names
        require(
            names is None or len(names) == self.num_classes,
            f"data.class_names has {len(names or ())} names but data.num_classes is {self.num_classes}",
        )
        return self


@settings("autoencoder")
class AutoencoderSpec:
    """From images to latents, trained on public images only."""

    kind: Literal["identity", "conv", "pca"] = Field(
        default="identity",
        description="identity: latents are pixels in [-1, 1]; conv: a small convolutional autoencoder with flat "
        "latents; pca: the leading principal components of the public images, and a small convolutional decoder.",
    )
    latent_dim: Count = Field(default=64, description="How many numbers a latent of conv or pca has.")
    width: Count = Field(
        default=32, description="How many channels the first convolution of conv, or each of pca's decoder, has."
    )
    steps: StrictInt = Field(
        default=2000,
        ge=0,
        description="How many training steps conv, or the decoder of pca, takes; 0 leaves pca the linear decoder.",
    )
    batch_size: Count = Field(default=256, description="How many public images a training step sees.")
    learning_rate: PositiveNumber = Field(default=1e-3, description="The learning rate of this training.")

    @model_validator(mode="after")
    def _check(self) -> AutoencoderSpec:
        require(
            self.kind != "conv" or self.steps > 0, "autoencoder.steps is 0 but its kind is conv; expected 1 or more"
        )
        return self


@settings("denoiser")
class DenoiserSpec:
    """The network that predicts the noise."""

    kind: Literal["residual_mlp", "unet"] = Field(
        default="residual_mlp", description="residual_mlp works on flat latents; unet works on image-shaped latents."
    )
    width: Count = Field(default=384, description="Hidden units of the MLP, or channels of the UNet's first level.")
    num_blocks: Count = Field(default=3, description="Residual blocks of the MLP, or levels of the UNet.")
    embedding_dim: StrictInt = Field(
        default=128, gt=0, multiple_of=2, description="The size of the embedding of timestep and class, an even number."
    )


@settings("schedule")
class ScheduleSpec:
    """The diffusion process and the two steps that divide it."""

    kind: Literal["linear", "cosine"] = Field(
        default="linear", description="How noise grows over timesteps: linear betas (DDPM), or cosine."
    )
    num_train_timesteps: StrictInt = Field(
        default=1000, ge=2, description="How many timesteps T the diffusion process has; timestep 0 is the cleanest."
    )
    beta_start: Number = Field(
        default=1e-4, gt=0, lt=1, description="The beta of timestep 0 in a linear schedule, at most beta_end."
    )
    beta_end: Number = Field(
        default=0.02, gt=0, lt=1, description="The beta of the last timestep in a linear schedule."
    )
    split_step: StrictInt = Field(
        default=700,
        description="Where the retrieved trajectory ends and the private model starts, which trains on timesteps below "
        "it. It is below query_step, or equal to num_train_timesteps, which turns retrieval off; 0 leaves the start "
        "as it is, where sampling.starts is statistics.",
    )
    query_step: StrictInt = Field(
        default=800,
        description="The timestep at which the public model's estimate of the clean image becomes the retrieval "
        "feature. It is below num_train_timesteps.",
    )

    @model_validator(mode="after")
    def _check(self) -> ScheduleSpec:
        total, split, query = self.num_train_timesteps, self.split_step, self.query_step
        require(
            self.beta_start <= self.beta_end,
            f"schedule betas are {self.beta_start} to {self.beta_end}; expected 0 < start <= end < 1",
        )
        require(0 <= split <= total, f"schedule.split_step is {split}; expected 0 to num_train_timesteps {total}")
        require(
            0 <= query < total,
            f"schedule.query_step is {query}; expected 0 to num_train_timesteps - 1 = {total - 1}",
        )
        require(
            split == total or split < query,
            f"schedule.split_step is {split} and schedule.query_step is {query}; split_step must be below "
            f"query_step (or equal to num_train_timesteps {total}, which turns retrieval off)",
        )
        return self

    @property
    def has_split(self) -> bool:
        """Whether the private model starts below the last timestep; split_step == T is plain DP fine-tuning."""
        return self.split_step < self.num_train_timesteps


@settings("pretrain")
class PretrainSpec:
    """Public training of the denoiser over all timesteps."""

    steps: StrictInt = Field(
        default=3000,
        ge=0,
        description="How many training steps the public denoiser takes; 0 leaves it untrained, and no "
        "public-only samples are drawn.",
    )
    batch_size: Count = Field(default=256, description="How many public images a training step sees.")
    learning_rate: PositiveNumber = Field(default=1e-3, description="The learning rate of public training.")
    label_dropout: Number = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="The share of examples trained without their class, which guidance needs; 0 turns it off.",
    )
    ema_decay: Number = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="The decay a step of the moving average of weights; 0 keeps the last weights.",
    )
    augment: StrictBool = Field(default=True, description="Whether public images get small random affine maps.")
    seed: StrictInt = Field(default=0, description="The seed of all public training.")


@settings("extractor")
class ExtractorSpec:
    """The contrastive feature extractor over estimates of x0 at query_step."""

    feature_dim: Count = Field(default=64, description="How many numbers a retrieval feature has.")
    width: Count = Field(default=256, description="How many hidden units the extractor has.")
    steps: StrictInt = Field(
        default=600, ge=0, description="How many training steps the extractor takes; 0 leaves it untrained."
    )
    batch_size: Count = Field(
        default=256, description="How many public images a training step sees, two views of each."
    )
    learning_rate: PositiveNumber = Field(default=1e-3, description="The learning rate of the extractor's training.")
    temperature: PositiveNumber = Field(
        default=0.2, description="The temperature of the contrastive loss: lower pulls harder on the nearest others."
    )


@settings("knowledge_base")
class KnowledgeBaseSpec:
    """Trajectories of public images and the index over their features."""

    num_trajectories_per_image: Count = Field(
        default=1, description="How many trajectories, each with its own noise, a public image contributes."
    )
    num_shards: Count = Field(
        default=2, description="How many shards the index has; exact search finds the same in any."
    )
    space: Literal["l2", "cosine", "ip"] = Field(
        default="cosine", description="The distance between features in hnswlib's words; ip is the inner product."
    )
    method: Literal["hnsw", "exact"] = Field(
        default="hnsw",
        description="hnsw is approximate search by a graph, exact compares with every feature of a shard.",
    )
    M: StrictInt = Field(
        default=16,
        ge=2,
        description="How many links an element of the HNSW graph has; more finds more, in more memory.",
    )
    ef_construction: Count = Field(
        default=200, description="How many candidates HNSW looks at while it builds the graph."
    )
    ef_search: Count = Field(
        default=100, description="How many candidates HNSW looks at for a query, at least the neighbours."
    )
    num_prototypes: Count = Field(
        default=64, description="How many public clusters of the features there are, for which private examples vote."
    )
    assignment: Literal["hash", "cluster"] = Field(
        default="hash",
        description="hash spreads rows evenly over shards; cluster puts like features together, so few probes suffice.",
    )
    serving: Literal["in_process", "service"] = Field(
        default="in_process",
        description="in_process: whoever asks holds all shards; service: Ray actors hold one shard each.",
    )
    num_probes: Count | None = Field(
        default=None,
        description="How many shards a query goes to, the nearest by public centroids; null is all of them.",
    )
    label_map: dict[StrictInt, StrictInt] = Field(
        default_factory=dict,
        description="Public class: private class. Only images of the classes that map to a private class are retrieved "
        "for it; an empty mapping restricts nothing.",
        json_schema_extra={"default": {}},
    )


@settings("sampling")
class SamplingSpec:
    """How samples are drawn; all of it is post-processing of the private model."""

    num_samples: Count = Field(default=20000, description="How many synthetic images are drawn.")
    num_steps: Count = Field(default=100, description="How many DDIM steps a full run from T to 0 would take.")
    eta: Number = Field(
        default=1.0,
        ge=0,
        le=1,
        description="1 is as stochastic as DDPM; 0 is deterministic DDIM, where equal starts give equal images.",
    )
    guidance: Number = Field(
        default=0.0,
        ge=0,
        description="The weight of classifier-free guidance; 0 is off and costs one evaluation a step, not two.",
    )
    starts: Literal["nearest", "statistics", "votes"] = Field(
        default="nearest",
        description="What a sample starts from: the nearest neighbour of a public state, a trajectory of a prototype "
        "drawn by class votes, or a draw from the released statistics of its class, noised to split_step.",
    )
    spread: PositiveNumber = Field(
        default=1.0,
        description="The factor on the distance of such a draw from its class's mean; a little above 1 a classifier "
        "learns more from the images, which look less alike.",
    )
    class_proportions: ListOf[Number] | None = Field(
        default=None,
        description="The share of each private class among samples, which sum to 1; null is the same for all classes.",
    )
    batch_size: Count = Field(default=500, description="How many images are drawn at once.")
    seed: StrictInt = Field(default=0, description="The seed of all sampling.")

    @model_validator(mode="after")
    def _check(self) -> SamplingSpec:
        if self.class_proportions is not None:
            total = sum(self.class_proportions)
            valid = all(p >= 0 for p in self.class_proportions) and abs(total - 1) < 1e-6
            require(valid, f"sampling.class_proportions sum to {total:g}; expected non-negative shares that sum to 1")
        return self


@settings("evaluation")
class EvaluationSpec:
    """How usefulness and likeness are measured."""

    classifier_epochs: Count = Field(default=8, description="How many times the classifier sees all its images.")
    classifier_batch_size: Count = Field(default=128, description="How many images a step of the classifier sees.")
    classifier_learning_rate: PositiveNumber = Field(default=2e-3, description="The learning rate of the classifier.")
    feature_weights: str | None = Field(
        default=None,
        description="The path of a TorchScript Inception that gives the features of FID; null is a small network "
        "trained on public labels.",
    )
    max_likeness_examples: Count = Field(
        default=5000, description="How many images of each kind the likeness measures are computed on, at most."
    )
    grid_columns: Count = Field(default=12, description="How many images of each class the picture of samples shows.")
    seed: StrictInt = Field(default=0, description="The seed of the classifier and of every choice of images.")
