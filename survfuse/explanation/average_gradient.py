"""The average gradient of a function along the straight line between two points."""

from collections.abc import Callable

import torch
from torch import Tensor

_NODES = 3  # of Gauss and Legendre's rule, on each piece of the line: exact where the function is of degree 6
_MOST_HALVINGS = 16
_AT_ONCE = 2**21  # numbers of the points that are evaluated together
_ROUNDING = 1e-6  # relative error of a function's value in float32


def average_gradient(
    function: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, affine: bool, tolerance: float
) -> Tensor:
    """∫₀¹ ∇function(start + t (end − start)) dt, shaped like ``start`` [K], in float64.

    ``function`` takes points [B, K] and gives [B]; if it is ``affine``, one gradient is the average. Otherwise Captum
    integrates over pieces of the line. Where a piece's integral and the function's difference between its ends
    disagree, as at a kink of a ReLU, the piece is halved, until all disagree by ``tolerance`` at most together, or as
    far as the function's rounding allows.

    >>> square = lambda points: (points**2).sum(-1)
    >>> average = average_gradient(square, torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]), False, 1e-6)
    >>> average.round(decimals=4).tolist()
    [2.0, 4.0]
    """
    if affine:
        point = start.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(point.unsqueeze(0)).sum(), point)
        return gradient.double()
    total = torch.zeros(len(start), dtype=torch.float64)
    edges = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    left, right = edges[:-1], edges[1:]
    for halving in range(_MOST_HALVINGS + 1):
        gradients, errors, size = _by_piece(function, start, end, left, right)
        enough = errors <= max(tolerance / (2.0 * len(left)), _ROUNDING * size)
        if halving == _MOST_HALVINGS or not errors.sum() > tolerance / 2.0 or not errors.isfinite().all():
            enough = torch.ones_like(enough)
        total += ((right - left)[enough, None] * gradients[enough]).sum(0)
        left, right, tolerance = left[~enough], right[~enough], tolerance - float(errors[enough].sum())
        if not len(left):
            break
        middle = (left + right) / 2.0
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
    return total


def _by_piece(
    function: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Of each piece of the line: the average gradient [P, K] and its error [P]; and the function's largest value."""
    from captum.attr import IntegratedGradients

    integrated = IntegratedGradients(function, multiply_by_inputs=False)
    line = end.double() - start.double()
    gradients, errors, largest = [], [], 0.0
    for lefts, rights in zip(
        *(edge.split(max(1, _AT_ONCE // (_NODES * len(start)))) for edge in (left, right)), strict=True
    ):
        starts, ends = ((start.double() + at[:, None] * line).to(start.dtype) for at in (lefts, rights))
        average = integrated.attribute(ends, starts, n_steps=_NODES, method="gausslegendre").double()
        with torch.no_grad():
            low, high = function(starts).double(), function(ends).double()
        gradients.append(average)
        errors.append(((rights - lefts) * (average @ line) - (high - low)).abs())
        largest = max(largest, float(low.abs().max()), float(high.abs().max()))
    return torch.cat(gradients), torch.cat(errors), largest
