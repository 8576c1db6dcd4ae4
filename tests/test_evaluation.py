"""A graph without an equilibrium has no answer, and nothing makes one of it."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from gncadeq import GraphDEQ, GraphNCA, PixelGraphClassifier
from gncadeq.cells import GrowingCell
from gncadeq.cli import app
from gncadeq.datasets import PixelGraphs
from gncadeq.evaluation import Evaluation, batch_answers, evaluate
from gncadeq.files.weights import save_pretrained
from gncadeq.training import GrowConfig
from gncadeq.training.targets import picture_target, save_target

INDEX = torch.arange(60)


@pytest.fixture
def digits(tmp_path):
    model = PixelGraphClassifier.from_pretrained("digits")
    return model, PixelGraphs(tmp_path, "digits", False, model.to_graph)


def measure(model, dataset):
    return evaluate(model, dataset, index=INDEX, batch_size=20, progress=False)


def test_answers_are_counted_by_hand():
    result = Evaluation(
        label=torch.tensor([0, 1, 2, 3]), prediction=torch.tensor([0, 1, 0, -1]),
        residual=torch.tensor([0.0, 0.5, 0.0, float("nan")]), num_steps=torch.tensor([1, 9, 1, 1]),
        converged=torch.tensor([True, False, True, False]),
        answered=torch.tensor([True, False, True, False]), seconds=0.0,
    )  # fmt: skip
    assert (result.accuracy, result.without_answer) == (0.25, 2)
    assert result.agreement(result) == 0.5
    assert result.confusion(4).nonzero().tolist() == [[0, 0], [2, 0]]
    summary = result.summary()
    assert (summary["without_answer"], summary["converged"]) == (2, 0.5)


def test_equilibria_that_are_not_reached_are_no_answers(digits):
    model, dataset = digits
    options = {"solver": "picard", "tol": 1e-4, "on_failure": "ignore"}
    model.dynamics = GraphDEQ(model.dynamics.cell, max_steps=100, **options)
    whole = measure(model, dataset)
    assert (whole.without_answer, whole.accuracy > 0.9) == (0, True)
    most = int(whole.num_steps.max()) - 1
    model.dynamics = GraphDEQ(model.dynamics.cell, max_steps=most, **options)
    part = measure(model, dataset)
    assert part.without_answer > 0
    assert part.without_answer == int((~part.converged).sum())
    right = (part.prediction == part.label) & part.converged
    assert part.accuracy == pytest.approx(float(right.double().mean()))
    # An automaton's answer is its state after so many steps.
    model.dynamics = GraphNCA(model.dynamics.cell, most, tol=1e-4)
    steps = measure(model, dataset)
    assert steps.without_answer == 0 < int((~steps.converged).sum())


@pytest.mark.filterwarnings("ignore::gncadeq.ConvergenceWarning")
@pytest.mark.parametrize("name", ["encoder", "readout"])
@pytest.mark.parametrize("automaton", [False, True])
def test_nan_is_no_answer(digits, name, automaton):
    model, dataset = digits
    with torch.no_grad():
        next(getattr(model, name).parameters()).fill_(float("nan"))
    model.dynamics.on_failure = "ignore"
    if automaton:
        model.dynamics = GraphNCA(model.dynamics.cell, 5)
    result = measure(model, dataset)
    assert (result.without_answer, result.accuracy) == (len(INDEX), 0.0)
    assert result.prediction.tolist() == [-1] * len(INDEX)
    assert int(result.confusion().sum()) == 0


def test_every_module_keeps_its_mode(digits, monkeypatch):
    model, dataset = digits
    model.train()
    model.readout.eval()  # frozen
    modes = [module.training for module in model.modules()]
    measure(model, dataset)
    assert [module.training for module in model.modules()] == modes
    next(batch_answers(model, dataset, INDEX, 20, 0, False, ""))
    assert [module.training for module in model.modules()] == modes
    monkeypatch.setattr("gncadeq.evaluation.Status", None)  # fails between two batches
    with pytest.raises(AttributeError, match="NON_FINITE") as failed:  # keeps the frames
        measure(model, dataset)
    assert failed.tb is not None
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match="at least one graph"):
        evaluate(model, dataset, index=INDEX[:0], progress=False)


def test_the_command_says_how_many_have_no_answer(tmp_path):
    report = tmp_path / "report.json"
    words = ["evaluate", "digits", "--data-root", str(tmp_path), "--limit", "60"]
    done = CliRunner().invoke(app, [*words, "--json", str(report)])
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["equilibrium"]["without_answer"] == 0
    options = ("--solver", "picard", "--max-steps", "2", "--json", str(report))
    done = CliRunner().invoke(app, [*words, *options])
    assert done.exit_code == 1
    assert "got none for 60 of 60: these have no answer" in done.stderr
    assert "without answer" in done.stdout
    found = json.loads(report.read_text())["equilibrium"]
    assert (found["without_answer"], found["accuracy"]) == (60, 0.0)


def test_a_grown_pattern_that_is_not_finite_is_refused(tmp_path):
    run = tmp_path / "run"
    target = picture_target(torch.rand(4, 5, 5))
    save_target(target, run / "target.safetensors")
    cell = GrowingCell(5, target.edge_attr.size(1), 8)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(1e12)
    save_pretrained(cell, run / "model.safetensors", {"seed_node": 12, "fire_rate": 1.0})
    GrowConfig("flag", channels=5, hidden_channels=8, out=str(run)).save(run / "config.json")
    done = CliRunner().invoke(app, ["run", str(run), "--steps", "9", "--recovery", "9"])
    assert done.exit_code == 1
    assert "Expected finite states (got NaN or infinity by step" in str(done.exception)
    assert not list(run.glob("*.png"))
