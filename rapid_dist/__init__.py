"""Private synthetic images at scale: retrieval augmented private diffusion (RAPID) on Ray.

    import rapid_dist as rd

    run = rd.Run("spec.yaml", out="my-run", overrides={"privacy.target_epsilon": 3})
    run.plan()                               # what it will cost, before anything runs
    run()                                    # all stages; or run.train() and the like
    run.report()                             # a dict
    run.samples()                            # a torch Dataset of (image, label)
    run.sample(100, labels="cat")            # further images later, at no further privacy cost

    rd.privacy                               # calibration, epsilon, plans, ledgers: for any trainer
    rd.knowledge_base.open("my-run").query(features, num_neighbors=5)

Names are imported when they are first used, so that importing the package loads nothing heavy.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from rapid_dist.lazy import lazy_names

try:
    __version__ = version("rapid-dist")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from rapid_dist import knowledge_base as knowledge_base
    from rapid_dist import privacy as privacy
    from rapid_dist.errors import ArtifactError as ArtifactError
    from rapid_dist.errors import BudgetExceededError as BudgetExceededError
    from rapid_dist.errors import InputError as InputError
    from rapid_dist.errors import PrivacyError as PrivacyError
    from rapid_dist.errors import RapidDistError as RapidDistError
    from rapid_dist.errors import SpecError as SpecError
    from rapid_dist.errors import StorageError as StorageError
    from rapid_dist.run import Run as Run
    from rapid_dist.run import RunPlan as RunPlan
    from rapid_dist.specs import RunSpec as RunSpec
    from rapid_dist.specs import load_spec as load_spec
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ArtifactError": "rapid_dist.errors:ArtifactError",
            "BudgetExceededError": "rapid_dist.errors:BudgetExceededError",
            "InputError": "rapid_dist.errors:InputError",
            "PrivacyError": "rapid_dist.errors:PrivacyError",
            "RapidDistError": "rapid_dist.errors:RapidDistError",
            "Run": "rapid_dist.run:Run",
            "RunPlan": "rapid_dist.run:RunPlan",
            "RunSpec": "rapid_dist.specs:RunSpec",
            "SpecError": "rapid_dist.errors:SpecError",
            "StorageError": "rapid_dist.errors:StorageError",
            "knowledge_base": "rapid_dist.knowledge_base",
            "load_spec": "rapid_dist.specs:load_spec",
            "privacy": "rapid_dist.privacy",
        },
    )

__all__ = [
    "ArtifactError",
    "BudgetExceededError",
    "InputError",
    "PrivacyError",
    "RapidDistError",
    "Run",
    "RunPlan",
    "RunSpec",
    "SpecError",
    "StorageError",
    "__version__",
    "knowledge_base",
    "load_spec",
    "privacy",
]
