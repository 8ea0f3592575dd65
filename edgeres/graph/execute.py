"""An ONNX graph executed by torch, Quantize/Dequantize included: differentiable, and any part of it by itself.

Values bear the names of the graph's tensors. `substitutes` let a reader of a tensor see something else than what was
computed, which is how a float graph runs under fake quantization without being rewritten:

    substitutes[tensor] = function of its value        readers[(node, input index)] = tensor

Quantized values are kept as float tensors that hold integers.  Source: ONNX operator specifications, opset 13 to 21.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgeres.core.errors import InputError
from edgeres.core.onnx_file import sizes_in
from edgeres.graph.chain import joined
from edgeres.graph.operators import OPERATORS, Operator
from edgeres.graph.view import GraphView

Substitute = Callable[[Tensor], Tensor]


class GraphNetwork(nn.Module):
    """`model` as a torch module; its float initializers are the parameters, named as in the graph.

    `forward` takes float32 (N, C, H, W) and gives the graph's output, several joined (`sizes` tells them apart). Raises
    InputError for an operator that is not known here.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        view, self.sizes = GraphView(joined(model)), sizes_in(model)
        self.nodes = [node for node in view.nodes if node.op_type != "Constant"]
        self.input, self.output = view.inputs[0], view.outputs[0]
        self.stored = nn.ParameterDict()
        for name in (name for name in view.constants if view.op_of(name) in ("", "Constant")):
            tensor = torch.from_numpy(np.array(view.value(name)))
            self.stored[key_of(name)] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        self.substitutes: dict[str, Substitute] = {}
        self.readers: dict[tuple[str, int], str] = {}
        self._operators = [operator_of(node) for node in self.nodes]
        self._producers = {output: index for index, node in enumerate(self.nodes) for output in node.output}

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (N, K), or what else it gives."""
        return self.run({self.input: images}, [self.output])[self.output]

    def values(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors `names` for `images`."""
        return self.run({self.input: images}, list(names))

    def parameter(self, name: str) -> nn.Parameter:
        """The initializer `name`; raises KeyError if there is none."""
        parameter: nn.Parameter = self.stored[key_of(name)]
        return parameter

    def run(self, feeds: Mapping[str, Tensor], targets: list[str]) -> dict[str, Tensor]:
        """The tensors `targets` computed from `feeds` alone: no node before a fed tensor is executed.

        Raises:
            InputError: a target cannot be computed from the feeds.
        """
        steps = self._steps(feeds, targets)
        last_use = {name: step for step in steps for name in self.nodes[step].input}
        values, seen = dict(feeds), dict[str, Tensor]()
        for step in steps:
            node = self.nodes[step]
            inputs = [self._read(node, index, values, seen) for index in range(len(node.input))]
            found = self._operators[step](*inputs)
            values.update(zip(node.output, found if len(node.output) > 1 else (found,), strict=True))
            for name in {name for name in node.input if last_use[name] == step and name not in targets}:
                values.pop(name, None)
                seen.pop(name, None)
        return {name: values[name] for name in targets}

    def _read(
        self, node: onnx.NodeProto, index: int, values: Mapping[str, Tensor], seen: dict[str, Tensor]
    ) -> Tensor | None:
        name = node.input[index]
        if not name:
            return None
        value = values[name] if name in values else self.stored[key_of(name)]
        if (node.name, index) not in self.readers:
            return value
        if name not in seen:
            seen[name] = self.substitutes[self.readers[(node.name, index)]](value)
        return seen[name]

    def _steps(self, feeds: Mapping[str, Tensor], targets: Iterable[str]) -> list[int]:
        """Numbers of the nodes to execute, in order."""
        needed: set[int] = set()
        open_names = list(targets)
        while open_names:
            name = open_names.pop()
            if not name or name in feeds or key_of(name) in self.stored:
                continue
            if name not in self._producers:
                raise InputError(f"the graph has no way to compute {name!r} from {', '.join(map(repr, feeds))}")
            step = self._producers[name]
            if step not in needed:
                needed.add(step)
                open_names += self.nodes[step].input
        return sorted(needed)


def operator_of(node: onnx.NodeProto) -> Operator:
    """The function of the node's inputs; raises InputError for an operator that is not known here."""
    make = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx", "com.microsoft") else None
    if make is None:
        raise InputError(
            f"torch cannot execute the ONNX operator {node.op_type} of node {node.name or node.output[0]!r}"
        )
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return make(attributes)


def key_of(name: str) -> str:
    """Names of torch parameters have no dots."""
    return name.replace(".", "/")
