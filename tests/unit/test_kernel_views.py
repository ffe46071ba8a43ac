"""Views: reshape, transpose and slice agree with numpy's, or say that they need a copy."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hwbench.kernels import views
from hwbench.kernels.views import View


@st.composite
def shapes(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    """Draw a shape with so many elements."""
    sizes: list[int] = []
    while count > 1 and len(sizes) < 4:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        sizes.append(draw(st.sampled_from(divisors)))
        count //= sizes[-1]
    return (*sizes, count)


@given(data=st.data(), count=st.sampled_from([1, 12, 24, 36]))
def test_views_are_numpys(data: st.DataObject, count: int) -> None:
    first = data.draw(shapes(count))
    buffer = np.arange(count + 7)
    view = View(None, buffer.size, first, views.row_major(first), 3)
    expected = buffer[3 : 3 + count].reshape(first)
    order = data.draw(st.permutations(range(len(first))))
    view, expected = views.transposed(view, order), expected.transpose(order)
    axis = data.draw(st.integers(0, len(first) - 1))
    start = data.draw(st.integers(0, view.shape[axis] - 1))
    step = data.draw(st.integers(1, 3))
    taken = math.ceil((view.shape[axis] - start) / step)
    view = views.sliced(view, axis, start, step, taken)
    expected = np.moveaxis(np.moveaxis(expected, axis, 0)[start::step], 0, axis)
    np.testing.assert_array_equal(buffer[view.index()], expected)
    assert view.end == view.index().max() + 1
    wanted = data.draw(shapes(expected.size))
    again = views.reshaped(view, wanted)
    if again is None:
        # It really needs a copy: numpy cannot do it in place either.
        assert not np.shares_memory(expected.reshape(wanted), buffer)
    else:
        np.testing.assert_array_equal(buffer[again.index()], expected.reshape(wanted))


def test_tokens_that_lie_side_by_side_are_found() -> None:
    heads = View(None, 4000, (2, 3, 5, 4), (5, 4 * 16, 1, 16))  # images, heads, tokens, channels
    flat = views.flat_tokens(
        views.reshaped(views.transposed(heads, (0, 2, 1, 3)), (2, 5, 12)) or heads
    )
    assert flat is not None
    assert (flat.shape, flat.strides) == ((10, 12), (1, 16))
    assert views.flat_tokens(View(None, 120, (10, 12), (12, 1))) is None
