"""Hypothesis strategies for valid combinations of options."""

from hypothesis import strategies as st


@st.composite
def neighborhood_axes(draw, axes, longest, kernel, stride):
    """Draw lengths, kernel sizes, dilations, strides and causality of axes, so that every window fits its axis."""

    def axis():
        size = draw(st.integers(1, min(kernel, longest)))
        dilation = draw(st.integers(1, min(3, longest // size)))
        length = draw(st.integers(size * dilation, longest))
        return length, size, dilation, draw(st.integers(1, min(stride, size))), draw(st.booleans())

    return tuple(zip(*(axis() for _ in range(axes)), strict=True))
