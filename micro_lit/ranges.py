"""Ranges of values in annotations: the rules of the parameters that take them."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt, MinLen

Count = Annotated[int, Ge(1)]
Index = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0.0)]
NonNegative = Annotated[float, Ge(0.0)]
Share = Annotated[float, Ge(0.0), Lt(1.0)]
Text = Annotated[str, MinLen(1)]
