"""`natten.types`: what sizes and flags per axis may be."""

from __future__ import annotations

from typing import TypeAlias

__all__ = [
    "CausalArg1DType",
    "CausalArg1DTypeOrDed",
    "CausalArg2DType",
    "CausalArg2DTypeOrDed",
    "CausalArg3DType",
    "CausalArg3DTypeOrDed",
    "CausalArgType",
    "CausalArgTypeOrDed",
    "Dimension1DType",
    "Dimension1DTypeOrDed",
    "Dimension2DType",
    "Dimension2DTypeOrDed",
    "Dimension3DType",
    "Dimension3DTypeOrDed",
    "DimensionType",
    "DimensionTypeOrDed",
]

Dimension1DType: TypeAlias = tuple[int]
Dimension2DType: TypeAlias = tuple[int, int]
Dimension3DType: TypeAlias = tuple[int, int, int]
DimensionType: TypeAlias = Dimension1DType | Dimension2DType | Dimension3DType
CausalArg1DType: TypeAlias = tuple[bool]
CausalArg2DType: TypeAlias = tuple[bool, bool]
CausalArg3DType: TypeAlias = tuple[bool, bool, bool]
CausalArgType: TypeAlias = CausalArg1DType | CausalArg2DType | CausalArg3DType

Dimension1DTypeOrDed: TypeAlias = int | Dimension1DType
Dimension2DTypeOrDed: TypeAlias = int | Dimension2DType
Dimension3DTypeOrDed: TypeAlias = int | Dimension3DType
DimensionTypeOrDed: TypeAlias = int | DimensionType
CausalArg1DTypeOrDed: TypeAlias = bool | CausalArg1DType
CausalArg2DTypeOrDed: TypeAlias = bool | CausalArg2DType
CausalArg3DTypeOrDed: TypeAlias = bool | CausalArg3DType
CausalArgTypeOrDed: TypeAlias = bool | CausalArgType
