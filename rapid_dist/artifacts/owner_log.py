"""The owner's log of a run: how long its stages took, of class private, kept out of all that may be shared."""

from __future__ import annotations

import json

from rapid_dist import layout
from rapid_dist.artifacts.manifest import Manifest
from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import ArtifactError

PRIVACY_CLASS = "private"


class OwnerLog:
    """Seconds by stage in one small file of a run's folder. One process at a time writes it.

    Wall time grows with the private records that a stage read, to the single large scan. So it is no part of what is
    released: manifests of class dp hold none (artifacts.manifest), and the shareable report none (evaluation).
    """

    def __init__(self, run: Store):
        self._run = run

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds, over all calls that worked on it. Raises ArtifactError when the file is no such log."""
        if not self._run.exists(layout.OWNER_LOG):
            return {}
        try:
            plain = json.loads(self._run.read_bytes(layout.OWNER_LOG))
            return {str(stage): float(seconds) for stage, seconds in plain["seconds"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArtifactError(
                f"{self._run.uri_of(layout.OWNER_LOG)} is not a log of this program; remove it: nothing but the times "
                "in reports depends on it"
            ) from None

    def add(self, stage: str, seconds: float) -> None:
        """Adds what one call took to its stage: a stage that was cut off and resumed took both times."""
        known = self.seconds()
        known[stage] = round(known.get(stage, 0.0) + seconds, 3)
        plain = {"privacy_class": PRIVACY_CLASS, "seconds": known}
        self._run.write_bytes(layout.OWNER_LOG, json.dumps(plain, indent=1).encode())

    def of(self, stage: str, manifest: Manifest | None) -> float | None:
        """How long a stage took: as logged here, else as its manifest says, else None.

        A data set that was ingested elsewhere is not in this log but its manifest, which is not of class dp, says it.
        A winner that a study trained has neither.
        """
        logged = self.seconds().get(stage)
        if logged is None and manifest is not None:
            logged = manifest.seconds
        return None if logged is None else round(logged, 1)
