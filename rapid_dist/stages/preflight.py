"""What would fail later, looked at before the first stage: sources, datasets, the machine and the room in the budget.

Nothing is charged, written or logged here. A refusal may be about a private record; it is for the owner who runs the
command, as every refusal of ingest is.
"""

from __future__ import annotations

from dataclasses import dataclass

from rapid_dist.errors import InputError
from rapid_dist.ingest.dataset import check_labels
from rapid_dist.ingest.decode import mixed_shapes_error, shape_of_first
from rapid_dist.ingest.provenance import refuse_shared_sources
from rapid_dist.ingest.sources import Source, discover
from rapid_dist.privacy.ledger import has_ledger, read_ledger
from rapid_dist.runtime.session import require_possible
from rapid_dist.specs import RunSpec
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.stages.train import require_room
from rapid_dist.storage.manifest import open_artifact, read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, iterate_labels
from rapid_dist.training.plan import build_plan, check_denoiser

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Role:
    """One of a run's sets of images: its source, where its dataset lies or will lie, and what is stated of it.

    class_names: stated, in label order. asks_for_labels: whether every record needs a label.
    """

    name: str
    source: str
    store: Store
    reading: ReadingSpec
    class_names: tuple[str, ...] | None
    asks_for_labels: bool

    @property
    def privacy_classes(self) -> tuple[str, ...]:
        """The privacy classes that a dataset of this role may have."""
        return {"public": ("public",), "private": ("private",)}.get(self.name, ("public", "private"))

    @property
    def is_private(self) -> bool:
        """Whether it is read by the rules for private images, as held-out images are too."""
        return self.name != "public"


def check_run(spec: RunSpec, roles: tuple[Role, ...], ledger: Store, train: Store, *, trains: bool) -> None:
    """Looks at all that a run needs before any of it is made.

    Args:
        roles: The sets of images of the run.
        ledger: The folder of the private dataset's ledger.
        train: The folder of the train stage.
        trains: Whether the train stage is still to run.

    Raises:
        InputError: A source cannot be read as stated, or sources do not fit each other.
        SpecError: The spec cannot run on this machine, or its denoiser cannot be trained privately.
        BudgetExceededError: The ledger has no room for the plan.
    """
    if trains:
        require_possible(spec.runtime)
        check_denoiser(spec)
    refuse_shared_sources(**{role.name: role.source for role in roles})
    shapes: dict[str, Shape] = {}
    for role in roles:
        manifest = read_manifest(role.store)
        shape = _shape_of_source(spec, role) if manifest is None else tuple(manifest.facts["image_shape"])
        if shape is not None:
            shapes[role.name] = shape
    first, *others = [role for role in roles if role.name in shapes]
    for role in others:
        if shapes[role.name] != shapes[first.name]:
            named = [f"data.{r.name} {r.source}" for r in (first, role)]
            raise mixed_shapes_error(named[0], shapes[first.name], named[1], shapes[role.name])
    check_datasets(spec, roles)
    if trains and has_ledger(ledger):
        plan = build_plan(spec)
        require_room(spec, read_ledger(ledger), plan, train)


def check_datasets(spec: RunSpec, roles: tuple[Role, ...]) -> None:
    """Compares the datasets that are there with the spec: their class, their class names and every label.

    Raises:
        InputError: A record has no label or one outside data.num_classes, or classes have other names.
        PrivacyError: A dataset has another privacy class than its role asks for.
    """
    for role in roles:
        manifest = read_manifest(role.store)
        if manifest is None:
            continue
        open_artifact(role.store, stage=INGEST, privacy_classes=role.privacy_classes)
        names = manifest.facts.get("class_names")
        if names and role.class_names and list(role.class_names) != names:
            raise InputError(
                f"data.{role.name} {role.source} was read with the classes {names}, but the spec states "
                f"{list(role.class_names)}; labels are numbers in that order: state the same names"
            )
        if role.asks_for_labels:
            for label in iterate_labels(role.store, manifest.files):
                check_labels(f"data.{role.name} {role.source}", label, spec.data.num_classes)


def _shape_of_source(spec: RunSpec, role: Role) -> Shape | None:
    """Returns the (C, H, W) that a source's first readable image comes to, None where none can be read.

    Raises:
        InputError: The source cannot be read as stated.
    """
    data = spec.data
    source = discover(role.source, class_names=role.class_names, is_private=role.is_private, reading=role.reading)
    _require_labels(role, source)
    return shape_of_first(
        source.units[0], image_size=data.image_size, num_channels=data.num_channels, skip_corrupt=data.skip_corrupt
    )


def _require_labels(role: Role, source: Source) -> None:
    if role.asks_for_labels and not source.is_labelled:
        raise InputError(
            f"data.{role.name} {role.source} has no labels but data.num_classes asks for classes; use class "
            "sub-folders, a label column, or set data.num_classes to 0"
            + "".join(f"; {notice}" for notice in source.notices)
        )
