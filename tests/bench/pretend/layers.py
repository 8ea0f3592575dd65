"""The layers a fake trtexec reports for an ONNX file: a convolution with its addition, ReLU and Q/DQ nodes is one.

A simple imitation of TensorRT's fusion, enough to have names, precisions and both dialects of its JSON. It is not a
prediction of what TensorRT does with a graph.
"""

QDQ = ("QuantizeLinear", "DequantizeLinear")
KINDS = {"Conv": "CaskConvolution", "Gemm": "CaskGemmConvolution", "MatMul": "CaskGemmConvolution"}
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
FORMATS = {
    "INT8": ("Thirty-two wide channel vectorized row major Int8 format", "kCHW32", "Int8"),
    "FP16": ("Sixteen wide channel vectorized row major FP16 format", "kCHW16", "Half"),
    "FP32": ("Row major linear FP32", "kLINEAR", "Float"),
}


class Graph:
    """A graph by who makes and who reads each tensor."""

    def __init__(self, graph):
        self.nodes = list(graph.node)
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.maker = {output: node for node in self.nodes for output in node.output}
        self.readers = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def is_quantized(self, tensor):
        """Whether it comes out of a DequantizeLinear."""
        maker = self.maker.get(tensor)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def is_weight(self, node):
        """Whether it only prepares a stored tensor."""
        return node.op_type in (*QDQ, "Cast", "Constant") and (
            not node.input or node.input[0] in self.stored or self.is_weight_tensor(node.input[0])
        )

    def is_weight_tensor(self, tensor):
        """Whether the tensor is stored, or made from a stored one alone."""
        maker = self.maker.get(tensor)
        return maker is not None and self.is_weight(maker)

    def only_reader(self, tensor):
        """The one node that reads it, or None."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None

    def elements(self, node):
        """Elements of the largest stored tensor that the node reads."""
        sizes = [0]
        for name in node.input:
            while name not in self.stored and self.maker.get(name) is not None and self.is_weight(self.maker[name]):
                name = self.maker[name].input[0] if self.maker[name].input else ""
            size = 1
            for length in self.stored[name].dims if name in self.stored else [0]:
                size *= length
            sizes.append(size)
        return max(sizes)


def layers_of(model):
    """[{"name", "kind", "inputs": [(tensor, precision)], "outputs": [...], "weights": (type, count), "adds"}]."""
    graph, found, taken = Graph(model.graph), [], set()
    for node in graph.nodes:
        if id(node) in taken or graph.is_weight(node):
            continue
        if node.op_type in KINDS:
            found.append(fused(graph, node, taken))
        elif node.op_type not in QDQ:
            found.append(alone(graph, node))
    return found


def fused(graph, node, taken):
    """A convolution and what follows it with no other reader."""
    names, inputs, adds, tail = [name_of(node)], [port(graph, node.input[0])], 0, node
    following = graph.only_reader(tail.output[0])
    if following is not None and following.op_type == "Add" and is_last_branch(graph, following, tail):
        others = [name for name in following.input if name != tail.output[0]]
        names, inputs, adds, tail = [*names, name_of(following)], [*inputs, port(graph, others[0])], 1, following
        taken.add(id(following))
        following = graph.only_reader(tail.output[0])
    if following is not None and following.op_type == "Relu":
        names, tail = [*names, name_of(following)], following
        taken.add(id(following))
    int8 = all(graph.is_quantized(name) for name in node.input[:2])
    stored = stored_as(graph, tail.output[0])
    return {
        "name": " + ".join(names),
        "kind": KINDS[node.op_type],
        "inputs": inputs,
        "outputs": [(stored, "FP32" if stored == tail.output[0] else "INT8")],
        "weights": ("Int8" if int8 else "Float", graph.elements(node)),
        "adds": adds,
    }


def is_last_branch(graph, add, node):
    """Whether `add` adds two computed tensors, and `node` is the last convolution it waits for directly."""
    others = [name for name in add.input if name != node.output[0]]
    if len(others) != 1 or others[0] in graph.stored:
        return False
    maker = graph.maker.get(others[0])
    return maker is None or maker.op_type not in KINDS or graph.nodes.index(maker) < graph.nodes.index(node)


def alone(graph, node):
    """Any other node, a layer of its own."""
    kind = "CaskPooling" if node.op_type in POOLS else "NoOp" if node.op_type in ("Flatten", "Reshape") else "PointWise"
    read = [port(graph, name) for name in node.input if name not in graph.stored]
    return {
        "name": f"PWN({name_of(node)})" if kind == "PointWise" else name_of(node),
        "kind": kind,
        "inputs": read,
        "outputs": [(stored_as(graph, node.output[0]), "FP32")],
        "weights": None,
        "adds": 0,
    }


def port(graph, tensor):
    """(name, precision); what is dequantized is read as it was quantized."""
    if graph.is_quantized(tensor):
        return graph.maker[tensor].input[0], "INT8"
    return tensor, "FP32"


def stored_as(graph, tensor):
    """The tensor's name, or of what it is quantized to for all that read it."""
    readers = graph.readers.get(tensor, [])
    return readers[0].output[0] if readers and all(one.op_type == "QuantizeLinear" for one in readers) else tensor


def name_of(node):
    """As TensorRT names a node without a name."""
    return node.name or f"node_of_{node.output[0]}"


def report(layers, version, inputs, outputs):
    """The object of --exportLayerInfo in that version's dialect."""
    is_new = version[0] >= 11
    rows = [row_of(layer, is_new) for layer in layers]
    if is_new:
        return {"Layers": rows, "I/O Tensors": [{"Name": name} for name in inputs + outputs]}
    return {"Layers": rows, "Bindings": inputs + outputs}


def row_of(layer, is_new):
    """One layer."""
    row = {"Name": layer["name"], "LayerType": layer["kind"]}
    for side in ("inputs", "outputs"):
        row[side.title()] = [tensor(name, precision, is_new) for name, precision in layer[side]]
    if layer["weights"]:
        kind, count = layer["weights"]
        row.update({"Weights": {"Type": kind, "Count": count}, "HasResidual": layer["adds"]})
    return {**row, "TacticName": "fake", "StreamId": 0, "Metadata": f"[ONNX Layer: {layer['name']}]"}


def tensor(name, precision, is_new):
    """One input or output."""
    old, layout, kind = FORMATS[precision]
    types = {"Format": layout, "DataType": kind} if is_new else {"Format/Datatype": old}
    return {"Name": name, "Dimensions": [], "Location": "Device", **types}


def profile(layers, version, total_ms, count):
    """The list of --exportProfile: a run's time shared out by elements of the weights, 1000 for none."""
    sizes = [1000 + (layer["weights"][1] if layer["weights"] else 0) for layer in layers]
    rows = [{"count": count}]
    for layer, size in zip(layers, sizes, strict=True):
        each = total_ms * size / sum(sizes)
        row = {"name": layer["name"], "timeMs": each * count, "averageMs": each, "percentage": 100 * size / sum(sizes)}
        rows.append({**row, "medianMs": each} if version >= [8, 5] else row)
    return rows
