import numpy as np
import pytest

from cache.span import Span


def arrays(lengths: list[int], shape: tuple[int, ...], dtype: str) -> dict[int, np.ndarray]:
    """Arrays of distinct rows, every other number, each where the allocator put it."""
    random = np.random.default_rng(0)
    return {2 * place: random.integers(1, 100, (length, *shape)).astype(dtype) for place, length in enumerate(lengths)}


@pytest.mark.parametrize(
    ("shape", "dtype"), [((768,), "float16"), ((3,), "float16"), ((), "uint8"), ((5, 7), "float32"), ((2,), "int64")]
)
def test_rows_of_several_arrays_are_those_of_each(shape, dtype):
    given = arrays([300, 1, 0, 2000, 40], shape, dtype)
    span = Span.of(given, 12)
    assert span is not None
    random = np.random.default_rng(1)
    number = random.choice([0, 2, 6, 8], 500)
    row = np.array([random.integers(len(given[one])) for one in number])
    wanted = np.array([given[one][at] for one, at in zip(number.tolist(), row.tolist(), strict=True)])
    found = span.gather(number, row, whole=True)
    assert found.dtype == np.dtype(dtype) and np.array_equal(found, wanted)
    assert np.array_equal(span.gather(number, row, whole=False), wanted)
    number[::3] = -1
    wanted[::3] = 0
    found = span.gather(number, row, whole=False)
    assert np.array_equal(found, wanted) and found.flags.writeable


def test_last_rows_and_nothing():
    given = arrays([4, 7], (5,), "float16")
    span = Span.of(given, 3)
    assert span is not None
    ends = span.gather(np.array([2, 0]), np.array([6, 3]), whole=True)
    assert np.array_equal(ends, [given[2][6], given[0][3]])
    assert span.gather(np.array([], int), np.array([], int), whole=True).shape == (0, 5)
    assert not span.gather(np.array([-1, -1]), np.array([0, 99]), whole=False).any()


def test_arrays_that_are_no_rows_on_end_have_no_span():
    wide = np.zeros((6, 8), np.float16)
    assert Span.of({0: wide[:, :4], 1: wide[:, 4:]}, 2) is None
    assert Span.of({0: wide[:0]}, 1) is None
