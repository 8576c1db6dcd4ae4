"""From one step to a rollout, in ONNX: a Loop around what depends on the state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_INT64 = 7  # onnx.TensorProto.INT64 and BOOL
_BOOL = 9


def roll(step: Any, steps: int | None = None, tol: float | None = None) -> Any:
    """Wrap the step ``z -> z_next`` of an ONNX model into a Loop.

    What doesn't depend on the state is computed once, before the loop: the injection's part, edge
    masks, normalised weights. What makes the ``logits`` is computed once, after it.

    Args:
        step: The model of a step, with inputs ``z`` and maybe ``update_mask``, and outputs
            ``z_next`` and maybe ``logits``.
        steps: The number of steps; ``None`` makes it an input.
        tol: The loop ends early once no entry of the state moves by more; ``None`` makes it an
            input.

    Returns:
        A model with the further inputs ``steps`` and ``tol`` unless they are given, and neither
        where there is an ``update_mask`` ``[steps, num_nodes]``, whose rows are the steps. Its
        outputs are ``z_last``; ``change``, the last step's largest, NaN where the state isn't
        finite, which ends the loop; and maybe ``logits``.
    """
    from onnx import helper

    graph = step.graph
    inputs = {value.name: value for value in graph.input}
    masked = "update_mask" in inputs
    before, during = _split(graph.node, {"z", "update_mask"} & set(inputs))
    body = _needed(during, "z_next")
    float_type = inputs["z"].type.tensor_type.elem_type
    size = [d.dim_param or d.dim_value for d in inputs["z"].type.tensor_type.shape.dim]

    body = _renamed(body, {"z": "z_t", "update_mask": "mask_t"})
    body += [
        helper.make_node("Sub", ["z_next", "z_t"], ["moved"]),
        helper.make_node("Abs", ["moved"], ["moved_size"]),
        helper.make_node("ReduceMax", ["moved_size"], ["largest"], keepdims=0),
        # A maximum may pass over NaN; a sum of zeros that are none doesn't.
        helper.make_node("Mul", ["moved", "nothing"], ["moved_nothing"]),
        helper.make_node("ReduceSum", ["moved_nothing"], ["broken"], keepdims=0),
        helper.make_node("Add", ["largest", "broken"], ["change_next"]),
    ]
    if masked:
        body.insert(0, helper.make_node("Gather", ["update_mask", "t"], ["mask_t"], axis=0))
        body.append(helper.make_node("Identity", ["go_t"], ["go_next"]))
    else:
        body.append(helper.make_node("Greater", ["change_next", "tol"], ["go_next"]))
    scalar = helper.make_tensor_value_info
    inner = helper.make_graph(
        body, "step",
        [scalar("t", _INT64, []), scalar("go_t", _BOOL, []), scalar("z_t", float_type, size),
         scalar("change_t", float_type, [])],
        [scalar("go_next", _BOOL, []), scalar("z_next", float_type, size),
         scalar("change_next", float_type, [])],
    )  # fmt: skip
    constants = [
        helper.make_tensor("go", _BOOL, [], [True]),
        helper.make_tensor("change_first", float_type, [], [float("inf")]),
        helper.make_tensor("nothing", float_type, [], [0.0]),
    ]
    if masked:
        before += [
            helper.make_node("Shape", ["update_mask"], ["mask_rows"], start=0, end=1),
            helper.make_node("Squeeze", ["mask_rows"], ["steps"]),
        ]
        nodes = inputs["update_mask"].type.tensor_type.shape.dim[0].dim_param
        inputs["update_mask"] = scalar("update_mask", _BOOL, [steps or "steps", nodes])
    else:
        for name, kind, value in (("steps", _INT64, steps), ("tol", float_type, tol)):
            if value is None:
                inputs[name] = scalar(name, kind, [])
            else:
                constants.append(helper.make_tensor(name, kind, [], [value]))
    loop = helper.make_node(
        "Loop", ["steps", "go", "z", "change_first"], ["z_last", "change"], body=inner
    )
    outputs = [scalar("z_last", float_type, size), scalar("change", float_type, [])]
    after = []
    for value in graph.output:
        if value.name != "z_next":
            after += _needed(during, value.name)
            outputs.append(value)
    # Nodes of both the loop and the readout stand in two scopes, under two names.
    twice = {name for node in body for name in node.output}
    after = _renamed(after, {"z": "z_last", **{name: f"{name}_last" for name in twice}})
    whole = helper.make_graph(
        [*before, loop, *after], "rollout", list(inputs.values()), outputs,
        [*graph.initializer, *constants],
    )  # fmt: skip
    return helper.make_model(whole, opset_imports=step.opset_import, ir_version=step.ir_version)


def _split(nodes: Iterable[Any], changing: set[str]) -> tuple[list[Any], list[Any]]:
    """The nodes before the loop, and those that see something that changes in it."""
    before, during = [], []
    changing = set(changing)
    for node in nodes:
        if any(a.HasField("g") for a in node.attribute):
            raise ValueError(
                f"Expected a step without branches for a rollout (got an ONNX {node.op_type}). "
                "Use program='step'"
            )
        # The state changes; its shape doesn't.
        shape = node.op_type == "Shape" and list(node.input) == ["z"]
        if not shape and changing & set(node.input):
            during.append(node)
            changing |= set(node.output)
        else:
            before.append(node)
    return before, during


def _needed(nodes: list[Any], output: str) -> list[Any]:
    """Those of ``nodes`` that ``output`` is computed from, in order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def _renamed(nodes: list[Any], names: dict[str, str]) -> list[Any]:
    """Copies of ``nodes`` with other names of values."""
    out = []
    for node in nodes:
        new = type(node)()
        new.CopyFrom(node)
        new.input[:] = [names.get(n, n) for n in node.input]
        new.output[:] = [names.get(n, n) for n in node.output]
        out.append(new)
    return out
