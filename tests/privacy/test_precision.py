"""Full precision within the block, and every setting as it was afterwards: on errors, in threads, under both names."""

from __future__ import annotations

import threading

import pytest
import torch

from rapid_dist.privacy import precision
from rapid_dist.privacy.precision import at_least_float32, full_precision, rounded_towards_zero

backends = torch.backends


def settings():
    """All settings that this torch has."""
    return [setting for guard in precision._guards() for setting in guard._settings]


def state() -> list:
    return [
        *(setting.read() for setting in settings()),
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
    ]


def as_before(before: list) -> bool:
    """What torch told before is so again. Old names it does not tell of (None): the newer ones decide."""
    return all(old is None or old == new for old, new in zip(before, state(), strict=True))


def is_full() -> bool:
    values_are_full = all(setting.read() in (None, *setting.wanted) for setting in settings())
    return values_are_full and not torch.is_autocast_enabled("cpu")


@pytest.fixture(autouse=True)
def torch_as_it_was():
    before = state()
    yield
    if hasattr(backends, "fp32_precision"):
        backends.fp32_precision = "none"
    for setting, value in zip(settings(), before, strict=False):
        setting.write(value)
    torch.set_autocast_enabled("cpu", False)
    torch.set_autocast_enabled("cuda", False)
    assert state() == before


def new_name(change):
    """A change through the names that torch has since 2.9."""
    missing = not hasattr(backends, "fp32_precision")
    return pytest.param(change, marks=pytest.mark.skipif(missing, reason="this torch has the older names alone"))


def set_matmul(value):
    return lambda: torch.set_float32_matmul_precision(value)


def set_at(place, name, value):
    return lambda: setattr(place, name, value)


def all_at_once():
    torch.set_float32_matmul_precision("medium")
    backends.cudnn.benchmark = True
    torch.set_autocast_enabled("cpu", True)


CHANGES = [
    lambda: None,
    set_matmul("medium"),
    set_matmul("high"),
    set_matmul("highest"),
    set_at(backends.cuda.matmul, "allow_tf32", True),
    set_at(backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
    set_at(backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
    set_at(backends.cudnn, "allow_tf32", False),
    set_at(backends.cudnn, "deterministic", True),
    set_at(backends.cudnn, "benchmark", True),
    all_at_once,
    new_name(lambda: setattr(backends, "fp32_precision", "tf32")),
    new_name(lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16")),
    new_name(lambda: setattr(backends.mkldnn.conv, "fp32_precision", "bf16")),
    new_name(lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32")),
    new_name(lambda: setattr(backends.cudnn.conv, "fp32_precision", "ieee")),
]


def test_the_settings_that_decide_are_among_those_looked_at():
    assert len(settings()) >= 7
    assert torch.get_float32_matmul_precision in [setting.read_fn for setting in settings()]


@pytest.mark.parametrize("change", CHANGES)
def test_all_is_full_within_the_block_and_as_it_was_afterwards(change):
    change()
    before = state()
    with full_precision("cuda"):
        assert is_full()
    assert as_before(before)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_all_is_as_it_was_after_an_error(change, error):
    change()
    before = state()
    with pytest.raises(error), full_precision("cuda"):
        raise error
    assert as_before(before)


@pytest.mark.parametrize("change", CHANGES)
def test_on_the_cpu_all_that_acts_there_is_full(change):
    change()
    before = state()
    with full_precision("cpu"):
        assert all(s.read() in s.wanted for s in precision._guards()[0]._settings)
        assert not torch.is_autocast_enabled("cpu")
    assert as_before(before)


@pytest.mark.skipif(not hasattr(backends, "fp32_precision"), reason="this torch has the older names alone")
def test_a_precision_that_came_from_a_more_general_setting_still_does_afterwards():
    backends.mkldnn.matmul.fp32_precision = "none"  # an earlier test may have chosen for it
    backends.fp32_precision = "tf32"
    with full_precision("cuda"):
        assert backends.mkldnn.matmul.fp32_precision == "ieee"
    assert backends.mkldnn.matmul.fp32_precision == "tf32"
    backends.fp32_precision = "none"
    assert backends.mkldnn.matmul.fp32_precision == "none"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_autocast_of_the_device_and_the_cpu_is_off_within_and_on_again_afterwards(kind):
    torch.set_autocast_enabled(kind, True)
    with full_precision(kind):
        assert not torch.is_autocast_enabled(kind)
    assert torch.is_autocast_enabled(kind)
    with pytest.raises(ValueError, match="why"), full_precision(kind):
        raise ValueError("why")
    assert torch.is_autocast_enabled(kind)


def test_a_product_under_autocast_is_that_of_float32():
    a, b = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision("cpu"):
            product = a @ b
        assert (a @ b).dtype == torch.bfloat16
    assert product.dtype == torch.float32
    assert torch.equal(product, a @ b)


def test_blocks_within_blocks_restore_at_the_end_of_the_outermost():
    torch.set_float32_matmul_precision("medium")
    with full_precision("cuda"):
        with full_precision("cuda"):
            assert is_full()
        assert is_full()
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_thread_that_leaves_does_not_lower_the_precision_of_one_that_is_still_within():
    torch.set_float32_matmul_precision("medium")
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first():
        with full_precision("cuda"):
            first_is_in.set()
            second_is_in.wait(30)
        first_is_out.set()

    def second():
        first_is_in.wait(30)
        with full_precision("cuda"):
            second_is_in.set()
            first_is_out.wait(30)
            seen.append(is_full())

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [True]
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rounded_value_is_never_larger_and_at_most_one_place_smaller(dtype):
    values = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = rounded_towards_zero(values, dtype)
    assert rounded.dtype == dtype
    assert (rounded.double() <= values).all()
    assert (torch.nextafter(rounded, torch.ones_like(rounded)).double() > values).all()
    assert (values.to(dtype).double() > values).any()  # what plain rounding does


def test_values_that_need_no_rounding_stay_and_tiny_ones_become_smaller():
    exact = torch.tensor([0.0, 0.5, 1.0, 2.0**-140], dtype=torch.float64)
    assert torch.equal(rounded_towards_zero(exact, torch.float32).double(), exact)
    assert torch.equal(rounded_towards_zero(exact / 3, torch.float64), exact / 3)
    tiny = rounded_towards_zero(torch.tensor([1e-300, 1.1 * 2.0**-149], dtype=torch.float64), torch.float32)
    assert tiny.tolist() == [0.0, 2.0**-149]


def test_float32_and_float64_are_kept_and_less_is_taken_to_float32_exactly():
    for dtype in (torch.float32, torch.float64):
        tensor = torch.ones(2, dtype=dtype)
        assert at_least_float32(tensor) is tensor
    for dtype in (torch.bfloat16, torch.float16):
        tensor = torch.randn(100, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert at_least_float32(tensor).dtype == torch.float32
        assert torch.equal(at_least_float32(tensor).to(dtype), tensor)
