"""The shipped weights do what their cards say, on real data."""

from __future__ import annotations

import pytest
import torch

from gncadeq import GraphDEQ, PixelGraphClassifier
from gncadeq.datasets import PixelGraphs
from gncadeq.evaluation import evaluate
from gncadeq.files.weights import pretrained_names
from gncadeq.models import ImageClassifier


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNCADEQ_CACHE", str(tmp_path))


def test_digits_reach_their_card(tmp_path):
    model = PixelGraphClassifier.from_pretrained("digits")
    result = evaluate(model, PixelGraphs(tmp_path, "digits", False, model.to_graph), progress=False)
    assert result.accuracy == pytest.approx(model.card["test"]["accuracy"], abs=0.003)
    assert bool(result.converged.all())


def test_mnist_reaches_its_card_on_a_thousand_digits(mnist_root, cache):
    model = PixelGraphClassifier.from_pretrained("mnist")
    assert sum(p.numel() for p in model.parameters()) == 15_122
    assert float(model.dynamics.cell.lipschitz_bound()) <= 0.99
    test_set = PixelGraphs(mnist_root, "mnist", False, model.to_graph)
    index = torch.arange(9000, 10_000)  # the second half of the test set is the easier one
    deq = evaluate(model, test_set, index=index, progress=False)
    assert deq.accuracy >= 0.975
    assert bool(deq.converged.all())
    model.dynamics = GraphDEQ(model.dynamics.cell, tol=1e-5, max_steps=600)
    tight = evaluate(model, test_set, index=index, progress=False)
    assert deq.agreement(tight) >= 0.998
    model.dynamics = model.dynamics.as_nca(fire_rate=0.5, steps=100, start="normal")
    nca = evaluate(model, test_set, index=index[:200], progress=False)
    assert bool((nca.prediction == deq.prediction[:200]).double().mean() >= 0.995)


def test_the_pyramid_reaches_its_card_on_a_thousand_digits(mnist_root, cache):
    model = ImageClassifier.from_pretrained("mnist-pyramid")
    assert sum(p.numel() for p in model.parameters()) == 14_578
    test_set = PixelGraphs(mnist_root, "mnist", False, model.to_graph)
    index = torch.arange(9000, 10_000)
    deq = evaluate(model, test_set, index=index, progress=False)
    assert deq.accuracy >= 0.985
    assert bool(deq.converged.all())
    model.dynamics = model.dynamics.as_nca(fire_rate=0.5, steps=150, start="normal")
    nca = evaluate(model, test_set, index=index[:100], progress=False)
    assert torch.equal(nca.prediction, deq.prediction[:100])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in pretrained_names() if n != "digits"])
def test_every_card_on_the_whole_test_set(name, mnist_root, cache):
    model = ImageClassifier.from_pretrained(name)
    test_set = PixelGraphs(mnist_root, "mnist", False, model.to_graph)
    result = evaluate(model, test_set, progress=False)
    assert result.accuracy == pytest.approx(model.card["test"]["accuracy"], abs=5e-4)
    assert bool(result.converged.all())
