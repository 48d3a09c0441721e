"""Every metric, declared once: name, kind, unit, help, privacy class. What is not declared here cannot be exported.

Classes: `public` is a function of settings, public data and the course of the work; `dp` also uses what private
training released; `private` would tell something of private records that no budget paid for, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from rapid_dist.errors import PrivacyError

EXPORTED_CLASSES = ("public", "dp")
KINDS = {"counter": "inc", "gauge": "set", "histogram": "observe"}  # and how Prometheus and Ray are told a value

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


CATALOG: dict[str, Metric] = {}


def _declare(kind: str, name: str, unit: str, privacy_class: str, *labels: str, **rest: Any) -> Metric:
    CATALOG[name] = Metric(name=name, kind=kind, unit=unit, privacy_class=privacy_class, labels=labels, **rest)
    return CATALOG[name]


_counter, _gauge, _histogram = (partial(_declare, kind) for kind in KINDS)

# fmt: off
SPENT_EPSILON = _gauge("rapid_dist_spent_epsilon", "epsilon", "public",
    help="Epsilon of all charges in the private dataset's ledger, those of other runs included, at the target delta.",
    caveat="It is +Inf when any attempt in the ledger is NOT PRIVATE, such as one with a debugging key.")
TARGET_EPSILON = _gauge("rapid_dist_target_epsilon", "epsilon", "public",
    help="Epsilon that the dataset's ledger allows.")
TARGET_DELTA = _gauge("rapid_dist_target_delta", "delta", "public",
    help="Delta at which epsilon is stated.")
LEDGER_ATTEMPTS = _gauge("rapid_dist_ledger_attempts", "attempts", "public",
    help="Attempts in the dataset's ledger, those of other runs included; each restart is one more and is paid for.")
LEDGER_ENTRIES = _gauge("rapid_dist_ledger_entries", "entries", "public",
    help="Entries written to the ledger since it was opened.")
LEDGER_FAILURES = _counter("rapid_dist_ledger_failures_total", "failures", "public", "operation",
    help="Times the ledger could not be read, written or verified.")
STAGE_RUNNING = _gauge("rapid_dist_stage_running", "0 or 1", "public", "stage",
    help="1 while the stage is at work.")
WORKER_GROUP_STARTS = _counter("rapid_dist_worker_group_starts_total", "starts", "public", "stage",
    help="Starts of a stage's worker group; all but the first are restarts after a worker was lost.")
PLANNED_STEPS = _gauge("rapid_dist_planned_steps", "steps", "public", "loop",
    help="Steps of the training loop in all.")
STEP = _gauge("rapid_dist_step", "steps", "public", "loop",
    help="The step that the training loop has reached.")
STEPS = _counter("rapid_dist_steps_total", "steps", "public", "loop",
    help="Steps taken, those repeated after a restart included.")
EXPECTED_EXAMPLES = _counter("rapid_dist_expected_examples_total", "examples", "public", "loop",
    help="Steps taken times the expected batch size, a public constant; never the examples actually drawn.")
PUBLIC_PHASE_SECONDS = _counter("rapid_dist_public_phase_seconds_total", "seconds", "public", "loop", "phase",
    help="Wall time of rank 0 in each phase of public training steps.")
PRIVATE_PHASE_SECONDS = _counter("rapid_dist_private_phase_seconds_total", "seconds", "public", "phase",
    help="Wall time of rank 0 in each phase of private training steps, in whole seconds of whole blocks of steps.",
    caveat="Wall time is a side channel outside the guarantee: it grows with the private batches it was spent on.")
QUERIES = _counter("rapid_dist_knowledge_base_queries_total", "queries", "dp", "source",
    help="Knowledge-base queries of sampling and of the recall check; those of private records are not counted.")
QUERY_SECONDS = _histogram("rapid_dist_knowledge_base_query_seconds", "seconds", "dp", "source",
    help="Time of one knowledge-base call, which answers a batch of queries; calls for private records are left out.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0))
SAMPLES = _counter("rapid_dist_samples_total", "images", "dp", "model",
    help="Synthetic images drawn, from the private model or from the public one alone.")
QUEUE_DEPTH = _gauge("rapid_dist_queue_depth", "parts", "public", "work",
    help="Parts of a parallel map that are not done.")
PARTS = _counter("rapid_dist_parts_total", "parts", "public", "work",
    help="Parts of a parallel map that are done.")
PLANNED_TRIALS = _gauge("rapid_dist_planned_trials", "trials", "public",
    help="Trials that a study may run; not shown where their number is secret.")
TRIALS = _gauge("rapid_dist_trials", "trials", "dp", "status",
    help="Trials of a study by how they are; a scheduler stops trials by scores that were paid for.")
BEST_SCORE = _gauge("rapid_dist_best_score", "score", "dp",
    help="The best score of a study's finished trials: of public images, or paid for.")
# fmt: on


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
