"""A run from Python: what it costs, its stages, its report and samples, and further samples later.

>>> import rapid_dist as rd
>>> run = rd.Run("spec.yaml", out="my-run", overrides={"runtime.num_workers": 2})
>>> run.plan()                                  # nothing is run, nothing is read but the spec
RunPlan(epsilon ... of 8 at delta 0.001 (PRV ..., RDP ...), noise multiplier ..., 12 steps of about 32 records)
>>> results = run()                             # or run("train"), or run.train(); what is finished is skipped
>>> sorted(run.report()["accuracy"])[:2]
[..., ...]
>>> image, label = run.samples()[0]
>>> image.shape
torch.Size([1, 8, 8])
>>> images, labels = rd.Run.open("my-run").sample(5, labels=[0, 1, 2, 3, 0])     # at no further privacy cost
>>> images.shape
(5, 1, 8, 8)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from rapid_dist import layout
from rapid_dist.errors import ArtifactError, SpecError
from rapid_dist.recipes import DEMO, recipe_text
from rapid_dist.specs import RunSpec, load_spec, parse_spec
from rapid_dist.stages.pipeline import STAGE_FUNCTIONS, RunFolder, StageResult, no_run, saved_spec
from rapid_dist.storage.manifest import open_artifact, read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.telemetry import headed, say

if TYPE_CHECKING:
    import numpy as np

    from rapid_dist.sampling.dataset import SampleDataset

STAGES = tuple(STAGE_FUNCTIONS)
Location = str | os.PathLike[str] | Store
Overrides = Mapping[str, Any] | Iterable[str]


@dataclass(frozen=True, kw_only=True, repr=False)
class RunPlan:
    """What private training will cost, worked out from public constants before anything runs.

    Attributes:
        noise_multiplier: Noise standard deviation over max_grad_norm.
        epsilon: What votes and all steps cost together at delta, by PLD: the number to state.
        epsilon_prv: The same by PRV, an independent code; None where it cannot answer.
        epsilon_rdp: The same by RDP, an upper bound.
        delta: The delta that epsilon is stated at.
        target_epsilon: What the run may spend, with its spare steps.
        steps: Training steps.
        spare_steps: Steps that restarts may lose, paid for within the target.
        sample_rate: Probability with which a record joins a step.
        expected_batch_size: Records a step has on average, a public constant.
        max_grad_norm: The L2 norm that each record's gradient is clipped to.
        is_private: False with a debugging key: then no epsilon holds.
    """

    noise_multiplier: float
    epsilon: float
    epsilon_prv: float | None
    epsilon_rdp: float
    delta: float
    target_epsilon: float
    steps: int
    spare_steps: int
    sample_rate: float
    expected_batch_size: float
    max_grad_norm: float
    is_private: bool

    def __repr__(self) -> str:
        prv = "not available" if self.epsilon_prv is None else f"{self.epsilon_prv:.4f}"
        stamp = "" if self.is_private else "NOT PRIVATE, a debugging key is set: "
        return (
            f"RunPlan({stamp}epsilon {self.epsilon:.4f} of {self.target_epsilon:g} at delta {self.delta:g} (PRV {prv}, "
            f"RDP {self.epsilon_rdp:.4f}), noise multiplier {self.noise_multiplier:.4f}, {self.times} of about "
            f"{self.expected_batch_size:g} records)"
        )

    @property
    def times(self) -> str:
        """How often noise of this multiplier is added, in words."""
        return f"{self.steps} steps" if self.steps else "one release"


class Run(RunFolder):
    """One run from two sets of images to synthetic images, in one folder.

    Args:
        spec: A spec, or the path or s3:// URI of one in YAML.
        out: Folder or s3:// prefix of the run. A stage creates it; it may hold a run of this spec already.
        overrides: Settings that replace those of the spec, as {"privacy.target_epsilon": 3} or ["section.key=value"].

    Raises:
        SpecError: A setting is unknown, out of range, or does not fit the others.
        InputError: The spec file does not exist.
    """

    def __init__(self, spec: RunSpec | str | os.PathLike[str], out: Location, *, overrides: Overrides = ()):
        changes = _as_lines(overrides)
        if not isinstance(spec, RunSpec):
            spec = load_spec(os.fspath(spec), overrides=changes)
        elif changes:
            spec = parse_spec(spec.to_yaml(), overrides=changes)
        super().__init__(spec, _store(out))

    @classmethod
    def open(cls, out: Location, *, overrides: Overrides = ()) -> Run:
        """Opens the run that a folder holds, by the spec saved in it.

        Args:
            out: Folder or s3:// prefix of the run.
            overrides: As for Run; settings of runtime may change, another setting makes it another run.

        Raises:
            ArtifactError: The folder holds no run.
        """
        store = _store(out)
        spec = saved_spec(store)
        if spec is None:
            raise no_run(store)
        return cls(spec, store, overrides=overrides)

    def __repr__(self) -> str:
        return f"Run({self.spec.name!r}, out={self.out.uri!r})"

    def __call__(self, *stages: str) -> list[StageResult]:
        """Runs all stages, or those named; a finished one is skipped, an interrupted one resumes.

        Args:
            stages: Some of ingest, pretrain, build-kb, train, sample, evaluate; in the order to run them.

        Returns:
            What each did, in order; ingest and sample give one result a dataset.

        Raises:
            SpecError: There is no such stage, or the budget cannot pay for the run.
            ArtifactError: A stage before is not finished, or the folder holds a run of another spec.
        """
        unknown = [name for name in stages if name not in STAGES]
        if unknown:
            raise SpecError(f"there is no stage {unknown[0]!r}; expected some of {', '.join(STAGES)}")
        return self.run_stages(stages or STAGES)

    def ingest(self) -> list[StageResult]:
        """Reads the images into datasets: run("ingest")."""
        return self("ingest")

    def pretrain(self) -> list[StageResult]:
        """Trains the public models: run("pretrain")."""
        return self("pretrain")

    def build_knowledge_base(self) -> list[StageResult]:
        """Builds the knowledge base of public trajectories: run("build-kb")."""
        return self("build-kb")

    def train(self) -> list[StageResult]:
        """Trains the private denoiser, and charges the ledger for it: run("train")."""
        return self("train")

    def evaluate(self) -> list[StageResult]:
        """Measures usefulness and likeness and writes the report: run("evaluate")."""
        return self("evaluate")

    def run_stages(self, stages: tuple[str, ...] = STAGES) -> list[StageResult]:
        """Runs the named stages in order within one Ray session; finished ones are skipped and say so."""
        from rapid_dist.runtime.mailbox import run_recorder
        from rapid_dist.runtime.session import ray_session

        self.save_spec()
        if "ingest" in stages:
            self.check(trains="train" in stages)
        if "train" in stages and read_manifest(self.store(layout.TRAIN)) is None:
            plan = self.plan()
            say(
                headed(
                    "plan",
                    f"noise multiplier {plan.noise_multiplier:.4f} for {plan.times}: epsilon {plan.epsilon:.4f} "
                    f"of {plan.target_epsilon:g} at delta {plan.delta:g}",
                )
            )
        with ray_session(self.spec.runtime), run_recorder(self.spec.name):
            return [result for name in stages for result in STAGE_FUNCTIONS[name](self)]

    def plan(self) -> RunPlan:
        """Works out the noise and what training will cost; runs nothing and reads nothing.

        Raises:
            SpecError: The budget cannot pay for the run.
            PrivacyError: The accountants disagree.
        """
        from rapid_dist.training.plan import build_plan

        plan = build_plan(self.spec)
        cost = plan.planned_epsilon()
        return RunPlan(
            noise_multiplier=plan.noise_multiplier,
            epsilon=cost.pld,
            epsilon_prv=cost.prv,
            epsilon_rdp=cost.rdp,
            delta=plan.target_delta,
            target_epsilon=plan.target_epsilon,
            steps=plan.steps,
            spare_steps=plan.spare_steps,
            sample_rate=plan.sample_rate,
            expected_batch_size=plan.expected_batch_size,
            max_grad_norm=plan.max_grad_norm,
            is_private=plan.is_private,
        )

    def report(self) -> dict[str, Any]:
        """Returns the report of a finished run as plain values, with the seconds that evaluation itself took.

        It is the owner's, since some numbers were computed from private images; evaluation/shareable is for others.

        Raises:
            ArtifactError: The run has not been evaluated.
        """
        manifest = open_artifact(self.store(layout.EVALUATION), stage="evaluate")
        report = dict(manifest.facts["report"])
        seconds = self.owner_log.of("evaluate", manifest)
        report["stage_seconds"] = {**(report["stage_seconds"] or {}), "evaluate": seconds}
        return report

    def samples(self, *, public_only: bool = False) -> SampleDataset:
        """Returns the synthetic images of a finished run as a torch Dataset of (image, label) that reads lazily.

        Args:
            public_only: Gives those of the public model alone, which epsilon 0 protects, to compare with.

        Raises:
            ArtifactError: The run has not been sampled.
        """
        from rapid_dist.sampling.dataset import open_samples
        from rapid_dist.stages.sample import SAMPLE, SAMPLE_PUBLIC

        folder, stage = (layout.PUBLIC_SAMPLES, SAMPLE_PUBLIC) if public_only else (layout.SAMPLES, SAMPLE)
        return open_samples(
            self.store(folder),
            stage=stage,
            num_classes=self.spec.data.num_classes,
            class_names=self.spec.data.class_names,
        )

    def sample(
        self,
        n: int,
        labels: int | str | Sequence[int | str] | None = None,
        *,
        seed: int | None = None,
        first_index: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws n further images from a finished training, in this process, and writes nothing.

        The stage of the same name is run("sample"). Image i is a function of the seed, its index first_index + i and
        its label alone, up to rounding. Drawing uses what was released already, so it costs no privacy.

        Args:
            n: How many images, at least 1.
            labels: A class for all images or one for each, by number or name. None draws classes as the spec's
                class_proportions say. Without classes only None is right.
            seed: None takes the spec's sampling.seed.
            first_index: None begins at 0 with a seed, and after the images of the run itself without one.

        Returns:
            Images (n, C, H, W) uint8 and labels (n,) int64, -1 where the run has no classes.

        Raises:
            InputError: There is no such class, or another number of labels than n.
            ArtifactError: The run is not trained, or the folder holds a run of another spec.
        """
        from rapid_dist.sampling.draw import draw_labels, indices, label_numbers
        from rapid_dist.stages.sample import draw_samples

        self.require_saved_spec()
        data, sampling = self.spec.data, self.spec.sampling
        spec = self.spec if seed is None else Run(self.spec, self.out, overrides={"sampling.seed": seed}).spec
        first = first_index if first_index is not None else sampling.num_samples if seed is None else 0
        index = indices(first, n)
        if labels is None:
            label = draw_labels(index, data.num_classes, sampling.class_proportions, spec.sampling.seed)
        else:
            label = label_numbers(labels, n, num_classes=data.num_classes, class_names=data.class_names)
        images = draw_samples(
            spec, self.store(layout.PRETRAIN), self.knowledge_base, self.store(layout.TRAIN), index, label
        )
        return images, label

    def sample_more(
        self,
        num: int | None = None,
        *,
        classes: Mapping[str, int] | None = None,
        seed: int | None = None,
        out: Location | None = None,
    ) -> SampleDataset:
        """Draws further images into a folder, part by part on Ray; the same call again resumes.

        The run's own files and its ledger are left as they are: drawing uses what was released already, so it costs no
        privacy. No image has the random numbers of one of the run's own; another seed gives others again.

        Args:
            num: How many images in all; None takes the sum of classes.
            classes: Class name or number -> how many of it, exactly. Other classes share the rest.
            seed: None takes the spec's sampling.seed.
            out: Folder or s3:// prefix of the images. None takes samples/more-NUM-seed-SEED of the run's folder.

        Returns:
            The images as run.samples() gives those of the run.

        Raises:
            InputError: There is no such class, or the counts do not fit num.
            ArtifactError: The run is not trained, or out holds something else or the images of another request.

        Example:
            >>> import rapid_dist as rd
            >>> len(rd.Run.open("my-run").sample_more(6, classes={"3": 4}, out="more"))
            6
        """
        from rapid_dist.runtime.mailbox import run_recorder
        from rapid_dist.runtime.session import ray_session
        from rapid_dist.sampling.dataset import open_samples
        from rapid_dist.sampling.draw import class_counts
        from rapid_dist.stages.sample import SAMPLE, FurtherDraw, run_sample
        from rapid_dist.stages.train import TRAIN

        self.require_saved_spec()
        data, sampling = self.spec.data, self.spec.sampling
        counts = class_counts(
            num,
            classes or {},
            num_classes=data.num_classes,
            class_names=data.class_names,
            proportions=sampling.class_proportions,
        )
        open_artifact(self.store(layout.TRAIN), stage=TRAIN, privacy_classes=("dp",))
        total, used = sum(counts), sampling.seed if seed is None else seed
        store = self.store(f"samples/more-{total}-seed-{used}") if out is None else _store(out)
        if store.exists(layout.SPEC) or store.uri in {self.store(name).uri for name in layout.FOLDERS}:
            raise ArtifactError(f"{store.uri} belongs to a run; give another --out folder for more images")
        changed = {"sampling.num_samples": total, "sampling.seed": used}
        spec = Run(self.spec, self.out, overrides=changed).spec
        places = self.store(layout.PRETRAIN), self.knowledge_base, self.store(layout.TRAIN), store
        with ray_session(self.spec.runtime), run_recorder(self.spec.name):
            run_sample(spec, *places, further=FurtherDraw(counts=counts, first_index=sampling.num_samples))
        return open_samples(store, stage=SAMPLE, num_classes=data.num_classes, class_names=data.class_names)


def demo_spec(out: Store, overrides: Iterable[str] = ()) -> RunSpec:
    """Writes the embedded sources under `out` unless they are there, and returns the spec that uses them."""
    from rapid_dist.ingest.embedded import write_embedded_sources

    sources = write_embedded_sources(out.child("sources").uri)
    paths = [f"data.{name}={getattr(sources, name)}" for name in ("private", "public", "test")]
    return parse_spec(recipe_text(DEMO), overrides=[*paths, *overrides], source="the demo recipe")


def _store(place: Location) -> Store:
    return place if isinstance(place, Store) else Store(place)


def _as_lines(overrides: Overrides) -> list[str]:
    """Overrides as the lines section.key=value that a spec takes; the value is YAML. Raises SpecError."""
    if isinstance(overrides, str):
        raise SpecError(f"overrides is {overrides!r}; expected a mapping of settings, or a list of lines")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{name}={_as_yaml(name, value)}" for name, value in overrides.items()]


def _as_yaml(name: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif getattr(value, "ndim", None) == 0:  # a number of numpy or torch
        value = value.item()
    try:
        return yaml.safe_dump(value, default_flow_style=True)
    except yaml.YAMLError:
        raise SpecError(f"{name} is a {type(value).__name__}; expected a plain number, text, list or mapping") from None
