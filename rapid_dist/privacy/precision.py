"""Full float32 arithmetic for what is released, whatever precision a caller asked of torch for the sake of speed."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

FULL = (torch.float32, torch.float64)
_IEEE = ("ieee", "none")  # none: nobody chose, and what torch then takes for a product of matrices is IEEE
# Places in torch.backends, and the values that mean full precision; what a version of torch lacks is left out. The
# first list has what acts on the CPU, and what torch.set_float32_matmul_precision, the older name, sets besides.
_EVERYWHERE = (
    ("cuda.matmul.fp32_precision", _IEEE),
    ("mkldnn.matmul.fp32_precision", _IEEE),
    ("mkldnn.conv.fp32_precision", _IEEE),
)
_ON_DEVICES = (
    ("cuda.matmul.allow_fp16_reduced_precision_reduction", (False,)),
    ("cuda.matmul.allow_bf16_reduced_precision_reduction", (False,)),
    ("cuda.matmul.allow_fp16_accumulation", (False,)),
    ("cudnn.allow_tf32", (False,)),
    ("cudnn.conv.fp32_precision", _IEEE),
    ("cudnn.deterministic", (True,)),
    ("cudnn.benchmark", (False,)),
)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """A global setting of torch. wanted: the values that mean full precision; the first is written if it has none."""

    read_fn: Callable[[], Any]
    write: Callable[[Any], None]
    wanted: tuple[Any, ...]

    def read(self) -> Any:
        """Its value; None where torch does not tell, since its old and its new name were set to different things.

        An old name that torch does not tell is not restored; the newer ones are, and torch goes by those.
        """
        try:
            return self.read_fn()
        except RuntimeError:
            return None

    def restore(self, before: Any) -> None:
        """Writes what was read. A precision that it had from a more general setting it has from there again."""
        if before is None or self.read() == before:
            return
        if self.wanted is _IEEE:
            self.write("none")
            if self.read() == before:
                return
        self.write(before)


def _settings(places: tuple[tuple[str, tuple[Any, ...]], ...]) -> list[_Setting]:
    """Those of the places that this torch has."""
    found = []
    for path, wanted in places:
        *folders, name = path.split(".")
        place = functools.reduce(lambda at, part: getattr(at, part, None), folders, torch.backends)
        read_fn = functools.partial(getattr, place, name)
        setting = _Setting(read_fn=read_fn, write=functools.partial(setattr, place, name), wanted=wanted)
        with contextlib.suppress(AttributeError):
            setting.read()
            found.append(setting)
    return found


class _Guard:
    """Settings belong to the process: the first thread to enter writes them, the last to leave restores them."""

    def __init__(self, settings: list[_Setting]):
        """settings: older names first, since to write one writes the newer ones too."""
        self._settings, self._lock, self._depth = settings, threading.Lock(), 0
        self._before: list[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            before = [setting.read() for setting in self._settings]
            wrong = [s for s, value in zip(self._settings, before, strict=True) if value not in s.wanted]
            self._before = before if wrong else None
            for setting in wrong:
                setting.write(setting.wanted[0])

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth or self._before is None:
                return
            for setting, before in zip(self._settings, self._before, strict=True):
                setting.restore(before)


@functools.cache
def _guards() -> tuple[_Guard, _Guard]:
    """The guards of what acts everywhere, and of what acts on devices only."""
    old_name = _Setting(
        read_fn=torch.get_float32_matmul_precision, write=torch.set_float32_matmul_precision, wanted=("highest",)
    )
    return _Guard([old_name, *_settings(_EVERYWHERE)]), _Guard(_settings(_ON_DEVICES))


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Within the block float32 arithmetic is float32's, on the CPU and on the device; all is restored afterwards.

    Switched off are autocast (of this thread), TF32 and bfloat16 in products of float32 matrices and convolutions,
    reductions in less than float32, and cuDNN's choice of algorithms by a race. torch's own sums and products of
    matrices use no atomic additions, so on one stream they come out the same every time.

    device_type: of the tensors, such as "cpu" or "cuda".
    Guarantee: holds whatever the caller set, also while other threads enter and leave such blocks.
    """
    kinds = {"cpu", device_type}
    cast = [kind for kind in kinds if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)]
    everywhere, on_devices = _guards()
    with everywhere, contextlib.nullcontext() if device_type == "cpu" else on_devices:
        try:
            for kind in cast:
                torch.set_autocast_enabled(kind, False)
            yield
        finally:
            for kind in cast:
                torch.set_autocast_enabled(kind, True)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself in float32 or float64, or its values in float32, which holds every bfloat16 and float16."""
    return tensor if tensor.dtype in FULL else tensor.float()


def rounded_towards_zero(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """values >= 0, float64, in a type of no more precision.

    Guarantee: no result is larger than its value, so a clipping factor stays one.
    """
    nearest = values.to(dtype)
    return torch.where(nearest > values, torch.nextafter(nearest, torch.zeros_like(nearest)), nearest)
