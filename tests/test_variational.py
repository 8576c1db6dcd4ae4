"""Variational autoencoders whose decoders are rules: what ``examples/variational.py`` claims."""

from __future__ import annotations

import torch
from variational import canvases
from variational_models import Autoencoder, Canvas, Injected, Pool, Started, likelihood

from gncadeq import GraphNCA
from gncadeq.cells import prepare_neighborhood
from gncadeq.transforms import ImageToGraph


def test_pixels_are_those_of_a_picture():
    canvas, data = Canvas.pixels(4), ImageToGraph()(torch.rand(1, 4, 4))
    assert torch.equal(canvas.pos, data.pos.float())
    hood, partition = canvas.copies(2)
    weight, z = torch.randn(9, 3, 3), torch.randn(16, 3)
    wanted = prepare_neighborhood(data.edge_index, data.edge_attr, 16, 9).stencil(weight)(z)
    torch.testing.assert_close(hood.stencil(weight)(z.repeat(2, 1)), wanted.repeat(2, 1))
    assert partition.num_graphs == 2


def test_the_picture_of_a_code_is_the_same_from_noise_and_on_other_graphs_certain():
    torch.manual_seed(0)
    decoder = Injected(Canvas.pixels(6), latent=3, hidden=8, channels=4, waves=3)
    code = torch.randn(2, 3)
    logits = decoder(code)
    late = GraphNCA(decoder.dynamics.cell, 300, fire_rate=0.5, start="normal")
    z, found = decoder.run(code, dynamics=late, return_solution=True)
    torch.testing.assert_close(decoder.read(z).view(2, -1), logits, atol=1e-3, rtol=1e-3)
    assert float(found.residual.max()) < 1e-5
    for canvas in canvases(6).values():
        edges = canvas.data.edge_index, canvas.data.edge_attr
        proof = decoder.dynamics.cell.certificate(*edges, num_nodes=len(canvas.pos))
        assert float(proof.rate.max()) <= 0.7 + 1e-6
        assert decoder(code, canvas).shape == (2, len(canvas.pos))


def test_bounds_are_exact_where_the_code_says_nothing():
    """Both are the likelihood where the encoder answers with the prior."""

    class Constant(torch.nn.Module):
        def forward(self, code):
            return torch.tensor([0.5, -1.0]).expand(len(code), 2)

    model = Autoencoder(Constant(), pixels=2, latent=3, hidden=4)
    torch.nn.init.zeros_(model.encoder[-1].weight)
    torch.nn.init.zeros_(model.encoder[-1].bias)
    images = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    wanted = likelihood(Constant()(images), images)
    usual, weighted = model.bounds(images, samples=5)
    torch.testing.assert_close(usual, wanted)
    torch.testing.assert_close(weighted, wanted)
    model.encoder[-1].bias.data[:3] = 1.0  # three means of one: a half nat each
    usual, weighted = model.bounds(images, samples=5)
    torch.testing.assert_close(usual, wanted - 1.5)


def test_the_pool_goes_on_from_damaged_states():
    torch.manual_seed(0)
    model = Autoencoder(Started(Canvas.pixels(4), latent=3, hidden=4, steps=2), 16, 3, 4)
    pool, images = Pool(model, size=6), torch.rand(4, 16).round()
    pool.bound(model, images).mean().backward()
    assert len(pool.images) == 4
    pool.states[:] = 1.0
    pool.bound(model, images)
    assert len(pool.images) == 6
    assert model.encoder[0].weight.grad is not None


def test_without_places_the_border_tells_nodes_apart():
    torch.manual_seed(0)
    decoder = Injected(Canvas.pixels(6), latent=3, hidden=8, channels=8, waves=0)
    code, data = torch.randn(2, 3), ImageToGraph()(torch.zeros(1, 6, 6))
    proof = decoder.dynamics.cell.certificate(data.edge_index, data.edge_attr, num_nodes=36)
    assert float(proof.rate.max()) <= 0.95 + 1e-4
    z = decoder.run(code)
    late = GraphNCA(decoder.dynamics.cell, 300, fire_rate=0.5, start="normal")
    torch.testing.assert_close(decoder.run(code, dynamics=late), z, atol=1e-2, rtol=1e-2)
    heard = z.view(2, 6, 6, -1)[..., :8]
    for turned in (heard.flip(1), heard.flip(2), heard.roll(1, 1), heard.roll(1, 2)):
        assert float((turned - heard).abs().amax()) > 0.1


def test_the_published_automaton_may_be_told_places():
    canvas, code = Canvas.pixels(4), torch.randn(2, 3)
    told = [Started(canvas, latent=3, hidden=8, steps=2, waves=waves) for waves in (0, 2)]
    assert told[0].told(code, canvas).shape == (32, 0)
    assert told[1].told(code, canvas).shape == (32, 4)
    told[1].dynamics.cell.update.reset_parameters()  # zero at first
    assert float(told[1](code).std(1).min()) > 0.0
