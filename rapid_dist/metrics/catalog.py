"""Every metric, declared once: name, kind, unit, help, privacy class. What is not declared here cannot be exported.

Classes: `public` is a function of settings, public data and the course of the work; `dp` also uses what private
training released; `private` would tell something of private records that no budget paid for, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapid_dist.errors import PrivacyError

EXPORTED_CLASSES = ("public", "dp")
KINDS = ("counter", "gauge", "histogram")

# Maps whose number of parts follows from public data and settings. That of a private ingest follows from how many
# private images there are, so a map that is not named here is not counted.
PUBLIC_WORK = ("trajectories", "values", "fit", "shards", "recall", "sample", "sample_public_only")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. labels come beside `run`, which every metric has; caveat: what a reader must know of its privacy."""

    name: str
    kind: str
    unit: str
    help: str
    privacy_class: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    caveat: str = ""

    @property
    def label_names(self) -> tuple[str, ...]:
        return ("run", *self.labels)

    @property
    def text(self) -> str:
        """The help with the caveat, as exported."""
        return f"{self.help} {self.caveat}".rstrip()


SPENT_EPSILON = Metric(
    name="rapid_dist_spent_epsilon",
    kind="gauge",
    unit="epsilon",
    help="Epsilon of all charges in the private dataset's ledger, those of other runs included, at the target delta.",
    privacy_class="public",
)
TARGET_EPSILON = Metric(
    name="rapid_dist_target_epsilon",
    kind="gauge",
    unit="epsilon",
    help="Epsilon that the dataset's ledger allows.",
    privacy_class="public",
)
TARGET_DELTA = Metric(
    name="rapid_dist_target_delta",
    kind="gauge",
    unit="delta",
    help="Delta at which epsilon is stated.",
    privacy_class="public",
)
LEDGER_ATTEMPTS = Metric(
    name="rapid_dist_ledger_attempts",
    kind="gauge",
    unit="attempts",
    help="Attempts in the dataset's ledger, those of other runs included; each restart is one more and is paid for.",
    privacy_class="public",
)
LEDGER_ENTRIES = Metric(
    name="rapid_dist_ledger_entries",
    kind="gauge",
    unit="entries",
    help="Entries written to the ledger since it was opened.",
    privacy_class="public",
)
LEDGER_FAILURES = Metric(
    name="rapid_dist_ledger_failures_total",
    kind="counter",
    unit="failures",
    help="Times the ledger could not be read, written or verified.",
    privacy_class="public",
    labels=("operation",),
)
STAGE_RUNNING = Metric(
    name="rapid_dist_stage_running",
    kind="gauge",
    unit="0 or 1",
    help="1 while the stage is at work.",
    privacy_class="public",
    labels=("stage",),
)
WORKER_GROUP_STARTS = Metric(
    name="rapid_dist_worker_group_starts_total",
    kind="counter",
    unit="starts",
    help="Starts of a stage's worker group; all but the first are restarts after a worker was lost.",
    privacy_class="public",
    labels=("stage",),
)
PLANNED_STEPS = Metric(
    name="rapid_dist_planned_steps",
    kind="gauge",
    unit="steps",
    help="Steps of the training loop in all.",
    privacy_class="public",
    labels=("loop",),
)
STEP = Metric(
    name="rapid_dist_step",
    kind="gauge",
    unit="steps",
    help="The step that the training loop has reached.",
    privacy_class="public",
    labels=("loop",),
)
STEPS = Metric(
    name="rapid_dist_steps_total",
    kind="counter",
    unit="steps",
    help="Steps taken, those repeated after a restart included.",
    privacy_class="public",
    labels=("loop",),
)
EXPECTED_EXAMPLES = Metric(
    name="rapid_dist_expected_examples_total",
    kind="counter",
    unit="examples",
    help="Steps taken times the expected batch size, a public constant; never the examples actually drawn.",
    privacy_class="public",
    labels=("loop",),
)
PUBLIC_PHASE_SECONDS = Metric(
    name="rapid_dist_public_phase_seconds_total",
    kind="counter",
    unit="seconds",
    help="Wall time of rank 0 in each phase of public training steps.",
    privacy_class="public",
    labels=("loop", "phase"),
)
PRIVATE_PHASE_SECONDS = Metric(
    name="rapid_dist_private_phase_seconds_total",
    kind="counter",
    unit="seconds",
    help="Wall time of rank 0 in each phase of private training steps, in whole seconds of whole blocks of steps.",
    privacy_class="public",
    labels=("phase",),
    caveat="Wall time is a side channel outside the guarantee: it grows with the private batches it was spent on.",
)
QUERIES = Metric(
    name="rapid_dist_knowledge_base_queries_total",
    kind="counter",
    unit="queries",
    help="Knowledge-base queries of sampling and of the recall check; those of private records are not counted.",
    privacy_class="dp",
    labels=("source",),
)
QUERY_SECONDS = Metric(
    name="rapid_dist_knowledge_base_query_seconds",
    kind="histogram",
    unit="seconds",
    help="Time of one knowledge-base call, which answers a batch of queries; calls for private records are left out.",
    privacy_class="dp",
    labels=("source",),
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
)
SAMPLES = Metric(
    name="rapid_dist_samples_total",
    kind="counter",
    unit="images",
    help="Synthetic images drawn, from the private model or from the public one alone.",
    privacy_class="dp",
    labels=("model",),
)
QUEUE_DEPTH = Metric(
    name="rapid_dist_queue_depth",
    kind="gauge",
    unit="parts",
    help="Parts of a parallel map that are not done.",
    privacy_class="public",
    labels=("work",),
)
PARTS = Metric(
    name="rapid_dist_parts_total",
    kind="counter",
    unit="parts",
    help="Parts of a parallel map that are done.",
    privacy_class="public",
    labels=("work",),
)
PLANNED_TRIALS = Metric(
    name="rapid_dist_planned_trials",
    kind="gauge",
    unit="trials",
    help="Trials that a study may run; not shown where their number is secret.",
    privacy_class="public",
)
TRIALS = Metric(
    name="rapid_dist_trials",
    kind="gauge",
    unit="trials",
    help="Trials of a study by how they are; a scheduler stops trials by scores that were paid for.",
    privacy_class="dp",
    labels=("status",),
)
BEST_SCORE = Metric(
    name="rapid_dist_best_score",
    kind="gauge",
    unit="score",
    help="The best score of a study's finished trials: of public images, or paid for.",
    privacy_class="dp",
)

CATALOG: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        SPENT_EPSILON,
        TARGET_EPSILON,
        TARGET_DELTA,
        LEDGER_ATTEMPTS,
        LEDGER_ENTRIES,
        LEDGER_FAILURES,
        STAGE_RUNNING,
        WORKER_GROUP_STARTS,
        PLANNED_STEPS,
        STEP,
        STEPS,
        EXPECTED_EXAMPLES,
        PUBLIC_PHASE_SECONDS,
        PRIVATE_PHASE_SECONDS,
        QUERIES,
        QUERY_SECONDS,
        SAMPLES,
        QUEUE_DEPTH,
        PARTS,
        PLANNED_TRIALS,
        TRIALS,
        BEST_SCORE,
    )
}


def require_exportable(metric: Metric) -> None:
    """Lets through what the catalog declares as public or dp.

    Guarantee: a metric of another class, or one that is not declared here, reaches no sink.
    Raises PrivacyError.
    """
    if CATALOG.get(metric.name) != metric:
        raise PrivacyError(f"metric {metric.name} is not declared in the catalog, so it is not exported")
    if metric.privacy_class not in EXPORTED_CLASSES:
        expected = " or ".join(EXPORTED_CLASSES)
        raise PrivacyError(f"metric {metric.name} has class {metric.privacy_class!r}; only {expected} is exported")
