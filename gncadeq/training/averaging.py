"""The running mean of a rule's weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def running_mean(module: nn.Module, decay: float) -> AveragedModel:
    r"""A copy of a module whose weights are a running mean of the module's.

    .. math::
        \bar{\theta}_t = d_t \, \bar{\theta}_{t-1} + (1 - d_t) \, \theta_t , \qquad
        d_t = \min \Big( d, \frac{1 + t}{10 + t} \Big)

    (`Polyak & Juditsky 1992 <https://doi.org/10.1137/0330046>`_): what the last updates of an
    optimiser add to the weights and take from them again is averaged out. Of few updates, it
    forgets the first sooner.

    Args:
        module: The module.
        decay: :math:`d`, in [0, 1); 0 copies the weights.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> mean = running_mean(layer, decay=0.5)
        >>> for value in (1.0, 2.0, 2.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     mean.update_parameters(layer)
        >>> round(mean.module.weight.item(), 3)
        1.955
    """

    def mean(average: Tensor, weight: Tensor, count: Tensor | int) -> Tensor:
        return weight.lerp(average, min(decay, float((1 + count) / (10 + count))))

    return AveragedModel(module, avg_fn=mean)
