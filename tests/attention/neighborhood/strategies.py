"""Random options that fit together, for hypothesis."""

from hypothesis import strategies as st


@st.composite
def neighborhood_axes(draw, axes, longest, kernel, stride):
    """Lengths, kernels, dilations, strides and causality of axes whose windows fit."""

    def axis():
        size = draw(st.integers(1, min(kernel, longest)))
        dilation = draw(st.integers(1, min(3, longest // size)))
        length = draw(st.integers(size * dilation, longest))
        return length, size, dilation, draw(st.integers(1, min(stride, size))), draw(st.booleans())

    return tuple(zip(*(axis() for _ in range(axes)), strict=True))
