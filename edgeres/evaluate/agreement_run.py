"""`edgeres agree`: two models, or one model executed in two ways, on the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.core.artifacts import Checkpoint, Engine, Model, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.names import DATA_NAMES, lookup
from edgeres.core.progress import track
from edgeres.core.spec import ModelSpec
from edgeres.core.stated import InputOptions, as_in, with_input
from edgeres.data import dataset_for
from edgeres.data.split import UNLABELLED
from edgeres.evaluate.agreement import Agreement, Comparison, ScaledSimilarity, Side, Similarity, first_drift, kl_sum
from edgeres.evaluate.agreement_probes import LOGITS, Values, probe_for
from edgeres.evaluate.closeness import Nearness
from edgeres.runtime import runtime_of
from edgeres.runtime.runner import check_outputs

WAYS = {
    "torch": "a checkpoint, or an ONNX graph with fake quantization",
    "literal": "ONNX Runtime, Q/DQ node by node, as TensorRT defines them",
    "fused": "ONNX Runtime with its own integer kernels",
}
_USUAL = "default: literal, torch for a checkpoint, torch,literal for one ONNX file alone"


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
    spec = _common_spec(a, b)
    if config.min_agreement is not None:
        spec.check_classes("--min-agreement")
    dataset = dataset_for(spec, config.data, download=config.download)
    images, batch = dataset.val.at_most(config.images, 0), spec.at_once(config.batch)
    way_a, way_b = config.runtimes or _ways(a, b)
    with (
        probe_for(a, way_a, config.threads) as (name_a, probe_a),
        probe_for(b, way_b, config.threads) as (name_b, probe_b),
    ):
        tally = _Tally(a, b)
        for x, labels in track(images.batches(spec, batch), "agree", -(-len(images) // batch)):
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
            notes=note,
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


def _common_spec(a: Model, b: Model) -> ModelSpec:
    """Raises InputError if they take other images."""
    first, last = a.spec, b.spec
    for what in ("task", "num_classes", "parts", "input_shape", "preprocess"):
        if getattr(first, what) != getattr(last, what):
            raise InputError(
                f"{a.path} and {b.path} cannot be compared: {what} is {getattr(first, what)} and {getattr(last, what)}"
            )
    return first
