"""Samples of a trained model: their labels, the steps from a start to an image, and a sampler opened from artefacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from rapid_dist.diffusion.process import full_timesteps, private_timesteps, public_timesteps
from rapid_dist.diffusion.sampler import evaluations_per_step, run_ddim
from rapid_dist.errors import InputError
from rapid_dist.knowledge_base.search import TrajectorySearch, prototype_label_shares
from rapid_dist.models.autoencoder import to_pixels
from rapid_dist.models.denoisers import one_hot_condition
from rapid_dist.models.public import PublicModels
from rapid_dist.privacy.release import vote_shares
from rapid_dist.privacy.statistics import ClassGaussians
from rapid_dist.sampling.starts import VotedPrototypes, draw_starts, public_labels, retrieve_starts
from rapid_dist.seeding import draw_normals, draw_uniforms, make_rng
from rapid_dist.specs import RunSpec


def sample_labels(num_samples: int, num_classes: int, proportions: tuple[float, ...] | None, seed: int) -> np.ndarray:
    """(num_samples,) int64 labels in a seeded order, counts rounded from the proportions; -1 when unconditional."""
    if num_classes == 0:
        return np.full(num_samples, -1, dtype=np.int64)
    shares = np.full(num_classes, 1 / num_classes) if proportions is None else np.asarray(proportions)
    edges = np.round(np.cumsum(shares) * num_samples).astype(np.int64)
    labels = np.searchsorted(edges, np.arange(num_samples), side="right").clip(max=num_classes - 1)
    return make_rng(seed, "labels").permutation(labels)


def class_counts(
    total: int | None,
    asked: Mapping[str, int],
    *,
    num_classes: int,
    class_names: Sequence[str] | None,
    proportions: tuple[float, ...] | None,
) -> tuple[int, ...]:
    """Returns how many images each class gets, exactly: those asked for, and the rest shared by the other classes.

    Args:
        total: How many images in all; None takes the sum of those asked for.
        asked: Class name or number -> count.
        num_classes: Of the run; 0 has one count, of unlabelled images.
        class_names: Names in label order, None where classes have none.
        proportions: How the classes that are not asked for share the rest; None is evenly.

    Returns:
        One count a class, in label order.

    Raises:
        InputError: There is no such class, a count is negative, or the counts do not fit the total.
    """
    for name, value in {"--num": total, **{f"--class {name}": count for name, count in asked.items()}}.items():
        if value is not None and value < 0:
            raise InputError(f"{name} is {value}; expected a number of images, not negative")
    if total is None:
        total = sum(asked.values())
    if total < 1:
        raise InputError("no image is asked for; give --num, or --class NAME=COUNT")
    if num_classes == 0:
        if asked:
            raise InputError("the run has no classes (data.num_classes is 0); leave --class out")
        return (total,)
    by_number: dict[int, int] = {}
    for name, count in asked.items():
        given = name if name in (class_names or ()) or not name.isdecimal() else int(name)
        number = int(label_numbers(given, 1, num_classes=num_classes, class_names=class_names)[0])
        if number in by_number:
            raise InputError(f"class {number} is asked for twice; give it one count")
        by_number[number] = count
    rest = total - sum(by_number.values())
    shares = np.full(num_classes, 1.0) if proportions is None else np.asarray(proportions, dtype=float)
    shares[list(by_number)] = 0
    if rest < 0 or (rest and not shares.sum()):
        raise InputError(f"--class asks for {total - rest} images and --num for {total}; let them agree")
    edges = np.round(np.cumsum(shares / (shares.sum() or 1)) * rest).astype(np.int64)
    counts = np.diff(edges, prepend=0)
    return tuple(by_number.get(number, int(counts[number])) for number in range(num_classes))


def labels_of_counts(counts: Sequence[int], num_classes: int, seed: int) -> np.ndarray:
    """Returns labels (sum of counts,) int64 in a seeded order, each class as often as counted; -1 without classes."""
    if num_classes == 0:
        return np.full(sum(counts), -1, dtype=np.int64)
    return make_rng(seed, "labels").permutation(np.repeat(np.arange(num_classes, dtype=np.int64), counts))


def indices(first: int, count: int) -> np.ndarray:
    """Returns the count sample indices from first on, (count,) int64. Raises InputError unless there is one."""
    for name, value, least in (("n", count, 1), ("first_index", first, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}")
    return np.arange(first, first + count, dtype=np.int64)


def draw_labels(index: np.ndarray, num_classes: int, proportions: tuple[float, ...] | None, seed: int) -> np.ndarray:
    """Returns labels (n,) int64 drawn with the proportions, -1 when unconditional; label i is a function of index i.

    Unlike sample_labels, whose counts are exact and which therefore has to know how many samples there are in all.
    """
    if num_classes == 0:
        return np.full(len(index), -1, dtype=np.int64)
    shares = np.full(num_classes, 1 / num_classes) if proportions is None else np.asarray(proportions, dtype=float)
    edges = np.cumsum(shares / shares.sum())
    uniform = draw_uniforms(seed, "label", index, 1)[:, 0]
    return np.searchsorted(edges, uniform, side="right").clip(max=np.flatnonzero(shares)[-1]).astype(np.int64)


def label_numbers(
    labels: int | str | Sequence[int | str], count: int, *, num_classes: int, class_names: Sequence[str] | None
) -> np.ndarray:
    """Returns class numbers (count,) int64 of labels given by number or name: one for all, or one each.

    Raises InputError for a class that there is not, or another number of labels than count.
    """
    if isinstance(labels, str | int | np.integer):
        labels = [labels] * count
    asked = list(labels)
    if len(asked) != count:
        raise InputError(f"got {len(asked)} labels for {count} samples; expected one each, or one for all")
    if num_classes == 0:
        raise InputError("the run has no classes (data.num_classes is 0); leave labels out")
    numbers = {name: number for number, name in enumerate(class_names or ())}
    return np.array([_class_number(label, numbers, num_classes) for label in asked], dtype=np.int64)


def _class_number(label: object, numbers: Mapping[str, int], num_classes: int) -> int:
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < num_classes:
        return int(label)
    names = f", or one of {', '.join(numbers)}" if numbers else "; data.class_names gives no names"
    raise InputError(f"there is no class {label!r}; expected 0 to {num_classes - 1}{names}")


def evaluations_per_image(spec: RunSpec) -> dict[str, int]:
    """Denoiser evaluations one image takes, and what a run over all timesteps would have taken."""
    schedule, sampling = spec.schedule, spec.sampling
    per_step = evaluations_per_step(sampling.guidance)
    is_retrieved = spec.uses_retrieval and not spec.starts_from_statistics
    public = len(public_timesteps(schedule, sampling.num_steps)) if is_retrieved else 0
    private = len(private_timesteps(schedule, sampling.num_steps)) * per_step
    full = len(full_timesteps(schedule, sampling.num_steps)) * per_step
    return {"public": public, "private": private, "per_image": public + private, "full_run": full}


def _denoise(spec: RunSpec, models: PublicModels, denoiser, x_t, timesteps, condition, index, guidance, *, device):
    sampling = spec.sampling
    step_noise = None
    if sampling.eta > 0 and len(timesteps) > 1:
        shape = (len(timesteps) - 1, *models.latent_shape)
        step_noise = torch.from_numpy(draw_normals(sampling.seed, "step", index, shape)).to(device)
    x0 = run_ddim(
        denoiser,
        x_t,
        timesteps,
        alphas_cumprod=models.alphas_cumprod,
        condition=condition,
        guidance=guidance,
        eta=sampling.eta,
        step_noise=step_noise,
    )
    with torch.no_grad():
        return to_pixels(models.autoencoder.decode(x0)).cpu().numpy()


def sample_private(
    spec: RunSpec,
    models: PublicModels,
    denoiser: torch.nn.Module,
    search: TrajectorySearch | None,
    voted: VotedPrototypes | None,
    index: np.ndarray,
    label: np.ndarray,
    *,
    device: str,
    gaussians: ClassGaussians | None = None,
) -> np.ndarray:
    """Images (n, C, H, W) uint8 of the private model; image i depends on (seed, index i, label i) alone."""
    if gaussians is not None:
        x_t = draw_starts(spec, models, gaussians, index, label, device=device)
    elif search is not None:
        x_t = retrieve_starts(spec, models, search, index, label, voted, device=device)
    else:
        x_t = torch.from_numpy(draw_normals(spec.sampling.seed, "start", index, models.latent_shape)).to(device)
    condition = one_hot_condition(torch.from_numpy(label).to(device), spec.data.num_classes)
    timesteps = private_timesteps(spec.schedule, spec.sampling.num_steps)
    return _denoise(spec, models, denoiser, x_t, timesteps, condition, index, spec.sampling.guidance, device=device)


def sample_public_only(
    spec: RunSpec, models: PublicModels, index: np.ndarray, label: np.ndarray, *, device: str
) -> np.ndarray:
    """Images (n, C, H, W) uint8 of the public model alone, epsilon 0.

    A private class is drawn as the public classes that the label map gives it; without a map, as the public class
    of the same number, which is a guess made without looking at private data.
    """
    asked = public_labels(spec, label, None, None, index)
    if not spec.knowledge_base.label_map and models.num_public_classes:
        asked = np.where(label >= 0, label % models.num_public_classes, -1)
    x_t = torch.from_numpy(draw_normals(spec.sampling.seed, "start", index, models.latent_shape)).to(device)
    condition = one_hot_condition(torch.from_numpy(asked).to(device), models.num_public_classes)
    timesteps = full_timesteps(spec.schedule, spec.sampling.num_steps)
    return _denoise(spec, models, models.denoiser, x_t, timesteps, condition, index, 0.0, device=device)


Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]


def private_sampler(
    spec: RunSpec,
    models: PublicModels,
    denoiser: torch.nn.Module,
    search: TrajectorySearch | None,
    noisy_votes: np.ndarray | None,
    *,
    num_prototypes: int,
    device: str,
    gaussians: ClassGaussians | None = None,
) -> Draw:
    """draw(index (n,), label (n,)) -> images (n, C, H, W) uint8; post-processing of the model and what was released.

    noisy_votes: (classes, prototypes), needed where sampling.starts is votes. gaussians: fitted to the released
    statistics, needed where it is statistics.
    """
    voted = None
    if search is not None and spec.sampling.starts == "votes":
        voted = VotedPrototypes(
            shares=vote_shares(noisy_votes, spec.privacy.votes_noise_multiplier),
            labels=prototype_label_shares(search, num_prototypes, models.num_public_classes),
        )

    def draw(index: np.ndarray, label: np.ndarray) -> np.ndarray:
        return sample_private(spec, models, denoiser, search, voted, index, label, device=device, gaussians=gaussians)

    return draw
