"""From a state to a prediction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gncadeq.check import check_count, check_flag
from gncadeq.graph.partition import Partition


class MeanReadout(nn.Module):
    r"""The mean over a graph's nodes, decoded by a two-layer MLP (the essay's eq. (1)).

    .. math::
        \mathbf{y} = \mathbf{W}_2 \, \mathrm{ReLU}\Big( \mathbf{W}_1
        \frac{1}{|\mathcal{V}|} \sum_{i \in \mathcal{V}} \mathbf{z}_i + \mathbf{b}_1 \Big)
        + \mathbf{b}_2

    In training the means are standardised over the batch (batch normalisation without parameters
    of its own): pooled states differ little between graphs, and the first layer learns slowly from
    them. :meth:`fold` moves the statistics into the first layer, which is what is shipped.

    Args:
        channels: Channels of the state.
        hidden_channels: Width of the MLP.
        out_channels: Number of outputs.
        standardize: Whether to standardise.

    Example:
        >>> readout = MeanReadout(4, 8, 10)
        >>> readout(torch.rand(6, 4), Partition(torch.tensor([0, 0, 0, 1, 1, 1]), 6)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, channels: int, hidden_channels: int, out_channels: int, standardize: bool = True
    ) -> None:
        super().__init__()
        channels = check_count("channels", channels, 1)
        hidden_channels = check_count("hidden_channels", hidden_channels, 1)
        out_channels = check_count("out_channels", out_channels, 1)
        check_flag("standardize", standardize)
        self.norm: nn.Module = (
            nn.BatchNorm1d(channels, affine=False) if standardize else nn.Identity()
        )
        self.lin1 = nn.Linear(channels, hidden_channels)
        self.lin2 = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.reset_running_stats()
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, z: Tensor, partition: Partition) -> Tensor:
        """Decode the mean state of every graph: ``[num_graphs, out_channels]``."""
        return self.decode(partition.mean(z))

    def decode(self, z: Tensor) -> Tensor:
        """Decode mean states ``[num_graphs, channels]``, of graphs or of parts of them."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm1d) and norm.training and z.size(0) < 2:
            raise ValueError(
                "Expected at least 2 graphs in a training batch, to standardise over (got "
                f"{z.size(0)}). Use larger batches, drop the last one, or call eval()"
            )
        hidden: Tensor = self.lin1(norm(z))
        out: Tensor = self.lin2(hidden.relu())
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Move the standardisation into the first layer; eval outputs stay the same."""
        if not isinstance(self.norm, nn.BatchNorm1d):
            return
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        scale = (var + self.norm.eps).rsqrt()
        self.lin1.bias.sub_(self.lin1.weight @ (mean * scale))
        self.lin1.weight.mul_(scale)
        self.norm = nn.Identity()
