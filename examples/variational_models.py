"""Variational autoencoders whose decoders are local rules: what ``variational.py`` trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import log, pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch_geometric.data import Data

from gncadeq import Cell, ConvCell, GraphDEQ, GraphNCA
from gncadeq.cells import CascadeCell, FeedForwardCell, Part, StencilConv, prepare_neighborhood
from gncadeq.graph.partition import Partition
from gncadeq.transforms import SoftDirections

Dynamics = GraphDEQ | GraphNCA


class Canvas:
    """The nodes on which a picture is decoded.

    Args:
        pos: Places ``[num_nodes, 2]``, (column, row) of pixels, whole numbers or not.
        side: Pixels along the side of the pictures that are learned.
    """

    def __init__(self, pos: Tensor, side: int) -> None:
        self.pos, self.side = pos, side
        self.data = SoftDirections(scale=1.0)(Data(x=pos[:, :0], pos=pos))
        self.copies = cache(self._copies)

    @classmethod
    def pixels(cls, side: int) -> Canvas:
        """The pixels of a square, of which each hears its eight neighbours."""
        return cls(
            torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(1).float(), side
        )

    def places(self, waves: int) -> Tensor:
        """What a node knows of its place: products of cosines, ``[num_nodes, waves**2]``."""
        angle = pi / self.side * (self.pos + 0.5)
        across, down = (angle.T[..., None] * torch.arange(waves)).cos()
        return (across[:, :, None] * down[:, None, :]).flatten(1)

    def square(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Which nodes a square of half the side takes at a random place, ``[count, num_nodes]``."""
        half = self.side // 2
        corner = torch.randint(half + 1, (count, 1, 2), generator=generator)
        return ((self.pos >= corner) & (self.pos < corner + half)).all(2)

    def _copies(self, count: int) -> tuple[Any, Partition]:
        """The edges of so many copies, prepared for stencils, and the nodes of each."""
        n, edges = len(self.pos), self.data.edge_index
        shift = n * torch.arange(count).repeat_interleave(edges.size(1))
        edges, kind = edges.repeat(1, count) + shift, self.data.edge_attr.repeat(count, 1)
        if bool((kind.amax(1) == 1).all()):  # pixels: each edge has one direction
            edges, kind = edges[:, edges[0] != edges[1]], kind[edges[0] != edges[1]].argmax(1)
        hood = prepare_neighborhood(edges, kind, n * count, 9)
        return hood, Partition(torch.arange(count).repeat_interleave(n), n * count)


class Decoder(nn.Module):
    """Draws pictures from codes by a rule that runs on the nodes of a canvas."""

    def __init__(self, canvas: Canvas, dynamics: Dynamics) -> None:
        super().__init__()
        self.canvas, self.dynamics = canvas, dynamics

    def told(self, code: Tensor, canvas: Canvas) -> Tensor:
        """What is injected into the nodes in every step."""
        return code.new_zeros(len(code) * len(canvas.pos), 0)

    def start(self, code: Tensor, canvas: Canvas) -> Tensor | None:
        """The state at first, zeros by default."""
        return None

    def run(self, code: Tensor, z0: Tensor | None = None, dynamics: Dynamics | None = None,
            canvas: Canvas | None = None, **options: Any) -> Any:  # fmt: skip
        """What ``dynamics`` returns for codes ``[B, D]``, by default those of training."""
        canvas = canvas or self.canvas
        hood, partition = canvas.copies(len(code))
        z0 = self.start(code, canvas) if z0 is None else z0
        dynamics = dynamics or self.dynamics
        return dynamics(self.told(code, canvas), hood, batch=partition, z0=z0, **options)

    def read(self, z: Tensor) -> Tensor:
        """The logits ``[num_nodes]`` of a bright node."""
        return z[:, -1]

    def forward(self, code: Tensor, canvas: Canvas | None = None) -> Tensor:
        """The logits ``[B, num_nodes]``."""
        return self.read(self.run(code, canvas=canvas)).view(len(code), -1)


class Injected(Decoder):
    """Every node is told the code and its place in every step: the picture is an equilibrium.

    h = ReLU(B ReLU(A [v, place])),  z' = ReLU(K * z + C h),  logit = d · [h, z]

    with the norms of K's matrices, which sum to ``kappa`` at most, and no bound on the others. With
    ``waves=0`` no node is told its place: it hears how far the border is, as :func:`echo`.
    """

    def __init__(self, canvas: Canvas, latent: int, hidden: int = 64, channels: int = 16,
                 waves: int = 8, kappa: float = 0.7) -> None:  # fmt: skip
        told = latent + waves**2
        parts, sources, width = [], ["x"], told
        if not waves:
            drive = nn.Linear(latent, channels)  # the same for all codes at first
            nn.init.zeros_(drive.weight)
            nn.init.ones_(drive.bias)
            parts, sources = [Part(echo(channels), drive, ["x"])], ["x", 0]
            width += channels
        first = len(parts)
        parts.append(Part(FeedForwardCell(hidden), nn.Linear(width, hidden), sources))
        parts.append(Part(FeedForwardCell(hidden), nn.Linear(hidden, hidden), [first]))
        if channels:
            hears = ConvCell(channels, channels, injection="additive", contraction=kappa,
                             scale_spread=0.0, activation="relu", bound="rows")  # fmt: skip
            parts.append(Part(hears, nn.Linear(hidden, channels), [first + 1]))
        last = nn.Linear(hidden + channels, 1)
        parts.append(Part(FeedForwardCell(1, "identity"), last, range(first + 1, len(parts))))
        super().__init__(canvas, GraphDEQ(CascadeCell(parts, told)))
        self.waves = waves

    def told(self, code: Tensor, canvas: Canvas) -> Tensor:
        """Code and place."""
        places = canvas.places(self.waves).repeat(len(code), 1)
        return torch.cat([code.repeat_interleave(len(canvas.pos), 0), places], 1)


def echo(channels: int, reach: float = 0.95) -> Cell:
    """A bounded convolution that at first hears the border: each channel adds up, with weights
    that fade by ``reach`` a pixel, what lies in one of eight directions."""
    cell = ConvCell(channels, channels, injection="additive", contraction=reach,
                    scale_spread=0.0, activation="relu")  # fmt: skip
    weight = torch.zeros_like(cell.weight_z)
    for c in range(channels):
        direction = (0, 1, 2, 3, 5, 6, 7, 8)[c % 8]
        weight[direction, c, c] = reach * (1.0 if c < 8 else 0.7)
    cell.weight_z.data = weight
    return cell


class PublishedCell(Cell):
    """z' = z + W ELU(K * z + A x + b), with W zero at first (Palm et al. 2022, without x)."""

    def __init__(self, channels: int, hidden: int, in_channels: int = 0) -> None:
        super().__init__()
        self.channels, self.in_channels = channels, in_channels
        self.sense = StencilConv(channels, hidden)
        self.told = nn.Linear(in_channels, hidden, bias=False) if in_channels else None
        self.update = nn.Linear(hidden, channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh parameters."""
        self.sense.reset_parameters()
        if self.told is not None:
            self.told.reset_parameters()
        nn.init.zeros_(self.update.weight)

    def prepare(
        self, x: Tensor, edge_index: Any, edge_attr: Tensor | None = None
    ) -> Callable[[Tensor], Tensor]:
        """Bind the graph."""
        told = 0.0 if self.told is None else self.told(x)
        return lambda z: z + self.update(F.elu(self.sense(z, edge_index, edge_attr) + told))


class Started(Decoder):
    """As published: every node starts as the code. It is told nothing afterwards; with ``waves``,
    its place in every step."""

    def __init__(self, canvas: Canvas, latent: int, hidden: int = 64, steps: int = 16,
                 waves: int = 0) -> None:  # fmt: skip
        cell = PublishedCell(latent, hidden, waves**2)
        super().__init__(canvas, GraphNCA(cell, steps, fire_rate=0.5))
        self.waves = waves

    def told(self, code: Tensor, canvas: Canvas) -> Tensor:
        """The places, if any."""
        return canvas.places(self.waves).repeat(len(code), 1)

    def start(self, code: Tensor, canvas: Canvas) -> Tensor:
        """The code, on every node."""
        return code.repeat_interleave(len(canvas.pos), 0)

    def read(self, z: Tensor) -> Tensor:
        """The first channel."""
        return z[:, 0]


class Perceptron(nn.Sequential):
    """The decoder of the usual autoencoder, with weights for every pixel."""

    def __init__(self, canvas: Canvas, latent: int, hidden: int) -> None:
        pixels = nn.Linear(hidden, len(canvas.pos))
        super().__init__(nn.Linear(latent, hidden), nn.ReLU(), pixels)


class Autoencoder(nn.Module):
    """An encoder to the mean and the deviation of a code, and a decoder."""

    def __init__(self, decoder: nn.Module, pixels: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = decoder

    def encode(self, images: Tensor) -> Normal:
        """The distribution of the codes of images ``[B, pixels]``."""
        mean, deviation = self.encoder(images).chunk(2, 1)
        return Normal(mean, deviation.exp(), validate_args=False)

    def divergence(self, images: Tensor) -> Tensor:
        """Of these distributions from the standard normal one, in nats ``[B]``."""
        code = self.encode(images)
        return kl_divergence(code, Normal(torch.zeros(()), torch.ones(()))).sum(1)

    def bounds(self, images: Tensor, samples: int = 1) -> tuple[Tensor, Tensor]:
        """Bounds on the evidence in nats ``[B]``: the usual one, and by importance weights."""
        posterior, prior = self.encode(images), Normal(torch.zeros(()), torch.ones(()))
        likelihoods, weights = [], []
        for _ in range(samples):
            code = posterior.rsample()
            likelihoods.append(likelihood(self.decoder(code), images))
            ratio = (prior.log_prob(code) - posterior.log_prob(code)).sum(1)
            weights.append(likelihoods[-1] + ratio)
        usual = torch.stack(likelihoods).mean(0) - self.divergence(images)
        return usual, torch.stack(weights).logsumexp(0) - log(samples)


def likelihood(logits: Tensor, images: Tensor) -> Tensor:
    """Of images ``[B, pixels]``, in nats ``[B]``."""
    return Bernoulli(logits=logits, validate_args=False).log_prob(images).sum(1)


class Pool:
    """States that are trained on, as published: half of a batch goes on from old states, a quarter
    of it from damaged ones.

    Args:
        model: The autoencoder, whose decoder starts as the code.
        size: States that are kept.
    """

    def __init__(self, model: Autoencoder, size: int = 1024) -> None:
        self.size, canvas = size, model.decoder.canvas
        self.images = torch.zeros(0, len(canvas.pos))
        self.states = torch.zeros(0, len(canvas.pos), model.decoder.dynamics.cell.channels)

    def bound(self, model: Autoencoder, images: Tensor) -> Tensor:
        """Of the evidence of images, half of which are replaced by old ones that go on."""
        decoder, half = model.decoder, len(images) // 2
        old = torch.randperm(len(self.images))[:half]
        images = torch.cat([images[: len(images) - len(old)], self.images[old]])
        z = decoder.start(model.encode(images).rsample(), decoder.canvas)
        z = z.view(*images.shape, -1)[: len(images) - len(old)]
        states = self.states[old]
        hurt = decoder.canvas.square(len(old) // 2, None)
        states[: len(hurt)] *= ~hurt[..., None]
        z = decoder.run(images[:, :0], torch.cat([z, states]).flatten(0, 1))
        found = likelihood(decoder.read(z).view_as(images), images) - model.divergence(images)
        kept = (
            torch.cat([self.images, images]),
            torch.cat([self.states, z.detach().view(*images.shape, -1)]),
        )
        chosen = torch.randperm(len(kept[0]))[: self.size]
        self.images, self.states = kept[0][chosen], kept[1][chosen]
        return found
