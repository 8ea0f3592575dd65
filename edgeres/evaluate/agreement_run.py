"""`edgeres agree`: two models, or one model executed in two ways, on the same images.

A model is shown with what its modules put out beside its logits: the last tensor whose node bears the module's name
(`layer2.1.relu_1`), in a checkpoint what the unit of that name returns. In every other graph it is what the module's
addition makes, or the activation right behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.input_options import InputOptions, as_in, with_input
from edgeres.core.names import DATA_NAMES, lookup
from edgeres.core.onnx_file import image_input
from edgeres.core.spec import ModelSpec
from edgeres.data import dataset_for
from edgeres.data.split import UNLABELLED
from edgeres.evaluate.agreement import Agreement, Comparison, ScaledSimilarity, Side, Similarity, first_drift, kl_sum
from edgeres.evaluate.closeness import Nearness, check_alike
from edgeres.evaluate.stage import doubts_of_batch
from edgeres.graph.blocks import blocks_in, end_of, made_of, module_of
from edgeres.graph.plain import ends_in, last_softmax, plain
from edgeres.graph.session import GraphSession
from edgeres.graph.view import QDQ, GraphView, called
from edgeres.models.graph_family import chain_of, graph_without
from edgeres.runtime import runner_for, runtime_of
from edgeres.runtime.runner import Images, Runner, RunnerOptions, check_outputs, fed, infer_all, joined

if TYPE_CHECKING:
    from edgeres.models.graph_net import GraphNet

LOGITS = ""
Values = dict[str, NDArray[np.float32]]
Probe = Callable[[Images], Values]  # float32 (N, C, H, W) -> module -> output, LOGITS -> (N, K)
Reader = Callable[[Images], Mapping[str, Any]]  # images -> tensor -> its values
_PAIR = QDQ | {"Cast"}
WAYS = {
    "torch": "a checkpoint, or an ONNX graph with fake quantization",
    "literal": "ONNX Runtime with its optimizer, Q/DQ pairs in float",
    "fused": "ONNX Runtime with its own integer kernels",
}
_USUAL = "default: literal, torch for a checkpoint, torch,literal for one ONNX file alone"


@contextmanager
def probe_for(model: Model, way: str, threads: int | None = None) -> Iterator[tuple[str, Probe]]:
    """(runtime as it stands in reports, Probe) of `model` executed in a `way`: torch, literal or fused.

    `fused` shows no module: an output inside the graph would keep ONNX Runtime from fusing there.
    Raises InputError if this `way` does not execute such a file.
    """
    runtime = "torch" if way == "torch" else "onnxruntime"
    runner = runner_for(model, RunnerOptions(threads=threads, literal_qdq=way != "fused"), runtime=runtime)
    with runner:
        probe = _probe_of(runner, model, way, threads)
        is_softmax = isinstance(model, OnnxModel) and last_softmax(model.proto) is not None
        yield runner.name, _in_logarithms(probe, are_logits=way != "fused") if is_softmax else probe


def _probe_of(runner: Runner, model: Model, way: str, threads: int | None) -> Probe:
    if way == "fused":
        return lambda images: {LOGITS: infer_all(runner, images)}
    if isinstance(model, Checkpoint):
        return _network_probe(model)
    if isinstance(model, OnnxModel):
        return _graph_probe(model) if way == "torch" else _session_probe(model, threads)
    raise InputError(f"{model.path}: the modules of an engine cannot be seen")


def _in_logarithms(probe: Probe, *, are_logits: bool) -> Probe:
    """Of a network that ends in a softmax: logarithms of its probabilities, which are logits of the same ones."""
    smallest = np.finfo(np.float32).tiny

    def logarithms(images: Images) -> Values:
        values = probe(images)
        given = values[LOGITS]
        if are_logits:
            given = np.exp(given - given.max(1, keepdims=True))
            given /= given.sum(1, keepdims=True)
        return {**values, LOGITS: np.log(np.maximum(given, smallest))}

    return logarithms


def module_tensors(model: Any, spec: ModelSpec) -> dict[str, str]:
    """Module -> tensor, in the graph's order; of a network that brings its graph the modules are those of that."""
    view = GraphView(model)
    return {name: made_of(view, tensor) for name, tensor in _ends_of_modules(view, spec).items()}


def _ends_of_modules(view: GraphView, spec: ModelSpec) -> dict[str, str]:
    if spec.structure:
        links = [link for link in chain_of(spec).links if link.name not in spec.dropped]
        if found := {link.name: link.end for link in links if link.end in view.producers}:
            return found
    nodes = {called(node): node for node in view.nodes if node.op_type not in _PAIR}
    named = {module: str(node.output[0]) for name, node in nodes.items() if (module := module_of(name))}
    blocks = {block.name: end_of(view, block) for block in blocks_in(view) if not block.is_inside}
    return named if blocks.keys() <= named.keys() else blocks


def _probe_over(graph: Any, spec: ModelSpec, reading: Callable[[list[str]], Reader]) -> Probe:
    """By the tensors of a graph; `reading` makes what tells those of some names."""
    tensors, ends = module_tensors(graph, spec), ends_in(graph)
    values_of = reading(list(dict.fromkeys([*ends, *tensors.values()])))

    def probe(images: Images) -> Values:
        found = {name: np.asarray(one, np.float32) for name, one in values_of(images).items()}
        return {LOGITS: joined([found[end] for end in ends]), **{name: found[one] for name, one in tensors.items()}}

    return probe


def _network_probe(checkpoint: Checkpoint) -> Probe:
    import torch

    from edgeres.models.graph_net import GraphNet
    from edgeres.models.weights import load_network

    network, seen = load_network(checkpoint), dict[str, Any]()
    if isinstance(network, GraphNet):
        return _traced_probe(network, checkpoint.spec)
    for name, unit in network.units():
        unit.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.numpy()))

    @torch.inference_mode()
    def probe(images: Images) -> Values:
        logits = network(torch.from_numpy(images)).numpy()
        return {**seen, LOGITS: logits}

    return probe


def _traced_probe(network: GraphNet, spec: ModelSpec) -> Probe:
    """A graph's steps run in one go, in which no module is called."""
    import torch

    from edgeres.models.network import live_in

    graph = graph_without(spec)

    def reading(names: list[str]) -> Reader:
        steps = network.segment(tuple(GraphView(graph).inputs[:1]), tuple(names), network.skips)
        run = torch.inference_mode()(steps.run)
        return lambda images: dict(zip(names, live_in(run(network, torch.from_numpy(images))), strict=True))

    return _probe_over(graph, spec, reading)


def _graph_probe(model: OnnxModel) -> Probe:
    import torch

    from edgeres.graph.execute import GraphNetwork

    network = GraphNetwork(graph := plain(model).proto)
    run = torch.inference_mode()(network.values)
    return _probe_over(graph, model.spec, lambda names: lambda images: run(torch.from_numpy(images), names))


def _session_probe(model: OnnxModel, threads: int | None) -> Probe:
    """A session of a copy whose modules' outputs are the graph's too."""
    feed, shape = image_input(model.proto, model.path)

    def reading(names: list[str]) -> Reader:
        session = GraphSession(model.proto, str(model.path), names, threads=threads)

        def values_of(images: Images) -> Values:
            size = model.batch or len(images)
            padded = np.pad(images, [(0, -len(images) % size)] + [(0, 0)] * (images.ndim - 1))
            pieces = (fed(padded[at : at + size], shape) for at in range(0, len(padded), size))
            parts = [session.run({feed: piece}) for piece in pieces]
            return {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in names}

        return values_of

    return _probe_over(model.proto, model.spec, reading)


class AgreeConfig(InputOptions):
    """What is compared on which images, and the rules a script may set."""

    data: str = Field(description=f"{DATA_NAMES}; its val split")
    runtimes: tuple[str, ...] = Field(
        (), description=f"how A and B are executed, two of torch, literal, fused; {_USUAL}"
    )
    images: int | None = Field(None, gt=0, description="this many images of val only (stratified)")
    batch: int = Field(125, gt=0, description="images at a time")
    threads: int | None = Field(None, gt=0, description="CPU threads; default: the runtime's choice")
    min_agreement: float | None = Field(None, ge=0, le=1, description="exit code 1 if top-1 agreement is lower")
    min_sqnr: float | None = Field(None, description="exit code 1 if the SQNR of the logits in dB is lower")
    download: bool = Field(False, description="fetch the data set if it is not here")

    def check(self) -> None:
        """The runtimes exist and are two."""
        for way in self.runtimes:
            lookup(WAYS, way, "runtime")
        if len(self.runtimes) not in (0, 2):
            raise InputError(f"--runtimes names {len(self.runtimes)}; name two, as in --runtimes torch,literal")


def agree(a: Model, b: Model, config: AgreeConfig) -> Agreement:
    """Agreement of `b` with `a` on the val split.

    Raises:
        InputError: they take other images or have other classes, or a runtime does not execute a file.
        StageError: a logit is not finite.
    """
    config.check()
    a, b = _fed_alike(a, b, config)
    check_alike(a, b, f"{a.path} and {b.path} cannot be compared")
    spec = a.spec
    if config.min_agreement is not None:
        spec.check_classes("--min-agreement")
    dataset = dataset_for(spec, config.data, download=config.download)
    images = dataset.val.at_most(config.images, 0)
    way_a, way_b = config.runtimes or _ways(a, b)
    with (
        probe_for(a, way_a, config.threads) as (name_a, probe_a),
        probe_for(b, way_b, config.threads) as (name_b, probe_b),
    ):
        tally = _Tally(a, b)
        for x, labels in images.shown(spec, config.batch, "agree"):
            tally.add(probe_a(x), probe_b(x), labels)
    return tally.agreement((name_a, name_b), dataset.name, config)


def broken_rules(agreement: Agreement, config: AgreeConfig) -> tuple[str, ...]:
    """One line for every rule of `config` that is not met."""
    lines, sqnr, same = list[str](), agreement.logits.sqnr_db, agreement.pair.agreement.value
    if config.min_agreement is not None and same < config.min_agreement:
        lines.append(f"top-1 agreement {same:.2%} is below {config.min_agreement:.2%}")
    if config.min_sqnr is not None and sqnr is not None and sqnr < config.min_sqnr:
        lines.append(f"logit SQNR {sqnr:.1f} dB is below {config.min_sqnr:g} dB")
    return tuple(lines)


class _Tally:
    """Sums over the batches."""

    def __init__(self, a: Model, b: Model) -> None:
        has_scaled = any(isinstance(one, OnnxModel) and one.has_scaled_channels for one in (a, b))
        self._models, self._scaled = (a, b), a.sha256 != b.sha256 and has_scaled
        self._guesses, self._logits, self._kl, self._n = Comparison(), Similarity(), 0.0, 0
        self._has_classes = a.spec.task == "classes"
        self._labelled, self._nearness = True, Nearness(a.spec.task, a.spec.parts)
        self._modules: dict[str, Similarity | ScaledSimilarity] = {}

    def add(self, a: Values, b: Values, labels: NDArray[np.int64]) -> None:
        """Counts one batch."""
        for model, values in zip(self._models, (a, b), strict=True):
            check_outputs(values[LOGITS], model.spec.num_classes, f"agree: {model.path}", model.spec.task)
        self._n += len(labels)
        self._labelled = bool((labels != UNLABELLED).all())
        if self._has_classes:
            self._guesses.count(a[LOGITS].argmax(1), b[LOGITS].argmax(1), labels if self._labelled else None)
            self._kl += kl_sum(a[LOGITS], b[LOGITS])
        else:
            self._nearness.add(b[LOGITS], a[LOGITS])
        self._logits.add(a[LOGITS], b[LOGITS])
        for name in (name for name in a if name != LOGITS and name in b and a[name].shape == b[name].shape):
            if name not in self._modules:
                self._modules[name] = ScaledSimilarity() if self._scaled else Similarity()
            self._modules[name].add(a[name], b[name])

    def agreement(self, runtimes: tuple[str, str], dataset: str, config: AgreeConfig) -> Agreement:
        """The figures of what was added."""
        pair, counted = self._guesses.pair, (self._guesses.right_a, self._guesses.right_b)
        closeness = None
        if not self._has_classes:
            model, reference = self._models[1].sha256, self._models[0].sha256
            closeness = self._nearness.closeness(
                n=self._n, dataset=dataset, split="val", runtime=runtimes[1], artifact=model, reference=reference
            )
        rights = counted if self._labelled else (None, None)
        first, second = (
            Side(path=str(one.path), sha256=one.sha256, precision=one.precision, runtime=name, correct_top1=right)
            for one, name, right in zip(self._models, runtimes, rights, strict=True)
        )
        modules = tuple(similarity.likeness(name) for name, similarity in self._modules.items())
        note = () if modules else ("no module outputs to compare: fused kernels show none, or no names in common",)
        if modules and self._scaled:
            note = ("channels of one file were scaled by quantize: each is compared up to a factor",)
        return Agreement(
            a=first,
            b=second,
            dataset=dataset,
            split="val",
            n=self._n,
            same_top1=pair.same if self._has_classes else None,
            only_a=pair.only_a,
            only_b=pair.only_b,
            logits=self._logits.likeness("logits"),
            kl=self._kl / self._n if self._has_classes else None,
            modules=modules,
            drift=first_drift(modules),
            notes=(*note, *chain(*(doubts_of_batch(model, config.batch) for model in self._models))),
            closeness=closeness,
        )


def _ways(a: Model, b: Model) -> tuple[str, str]:
    for model in (a, b):
        if isinstance(model, Engine):
            runtime_of(model)  # says why an engine cannot be executed
    if a.path.resolve() == b.path.resolve() and not isinstance(a, Checkpoint):
        return "torch", "literal"
    first, second = ("torch" if isinstance(model, Checkpoint) else "literal" for model in (a, b))
    return first, second


def _fed_alike(a: Model, b: Model, config: AgreeConfig) -> tuple[Model, Model]:
    """Both knowing how images become their input: from `config`, or the one that does not say as the one that does."""
    if a.spec.preprocess.is_known == b.spec.preprocess.is_known:
        return with_input(a, config), with_input(b, config)
    if config.said:
        raise InputError(f"one of the two says itself how images become its input; leave out --{config.said[0]}")
    return (a, as_in(b, a)) if a.spec.preprocess.is_known else (as_in(a, b), b)
