"""What is needed to rebuild a network and to feed it: never a pickled class."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from edgeres.core.amounts import counted
from edgeres.core.config import Config, unless_usual
from edgeres.core.errors import InputError

_LONGEST = 64 << 20  # characters of a packed graph
_MOST_AT_ONCE = 1 << 26  # numbers that a network gives for a batch: 256 MiB
_MOST_PIXELS_AT_ONCE = 1 << 21  # of a batch: 41 images of 224 pixels, whose first maps in a ResNet-50 take 128 MiB each
_FEWEST_CLASSES = 2
_MOST = 10.0  # of a mean or std of pixels in [0, 1]; one of pixels in [0, 255] is larger
FROM_ONNX = "onnx"  # family of what came as an ONNX file: the file is the network, no name rebuilds it
TRACED = "graph"  # family of a checkpoint that brings its structure along
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "squash", "letterbox"]
# What a network gives for an image: scores of classes, one vector that is compared by its direction, or other numbers.
# It decides how far two networks are apart without labels (evaluate/distance.py) and by what a network is judged.
Task = Literal["classes", "embedding", "tensors"]


class Preprocess(Config):
    """How an image becomes the network's input: brought to its size, scaled to [0, 1], (x - mean) / std.

    It is stored in the model's file and used from training to the engine. How an image comes to the input's size:

        crop        shorter side to `resize`, centre crop; without `resize` the image must have the input's size
        squash      to the input's sides whatever the aspect (with `resize` the shorter of them, then centre crop)
        letterbox   as large as fits into the input, in the middle, `border` around it

    `exif` turns the image upright first, as its EXIF orientation says. What came after the first version stands in a
    file only where it is not the default.
    """

    mean: tuple[float, ...] = Field(description="per channel, of pixels in [0, 1]")
    std: tuple[float, ...] = Field(description="per channel, of pixels in [0, 1]")
    resize: int | None = Field(default=None, gt=0, description="shorter side in pixels before the centre crop")
    interpolation: Interpolation = "bilinear"
    fit: Fit = "crop"
    border: int = Field(default=0, ge=0, le=255, description="grey value around a letterboxed image")
    exif: bool = False

    _written = unless_usual("fit", "border", "exif")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}")
        if any(abs(m) > _MOST for m in self.mean) or any(s > _MOST for s in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} are of pixels in [0, 1]; divide by 255")
        if any(s <= 0 for s in self.std):
            raise ValueError(f"std must be positive, got {self.std}")
        if self.fit == "letterbox" and self.resize is not None:
            raise ValueError(f"a letterboxed image fills the input, there is nothing to crop: no resize {self.resize}")
        if self.fit != "letterbox" and self.border:
            raise ValueError(f"border {self.border} is what surrounds a letterboxed image; fit is {self.fit}")
        return self

    @property
    def fitted(self) -> str:
        """The fit as people are told it and `import --fit` takes it: none where images have the input's size."""
        return "none" if (self.fit, self.resize) == ("crop", None) else self.fit

    @property
    def is_known(self) -> bool:
        """Whether anybody said it: without a mean there is none."""
        return bool(self.mean)


UNKNOWN_PREPROCESS = Preprocess(mean=(), std=())


class ModelSpec(Config):
    """A network by name or by its structure, and the modules it has lost.

    By name: `family` and `variant` as in `edgeres ls models`. `structure` is the whole network's graph without weights,
    of a family called graph, which no name rebuilds; a file without it has no such entry, nor one of the task classes.
    `num_classes` is how many numbers the network gives for an image, classes or not; of several outputs `parts` says
    what each is called and how many of them are its own, in their order.

    `input_shape` is (C, H, W). `options` are the family's own (ordering, shortcut, ...), only those that differ from
    its defaults. `dropped` holds the ORIGINAL names of removed modules, sorted.
    """

    family: str
    variant: str
    num_classes: int = Field(gt=0)
    input_shape: tuple[int, int, int]
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    options: dict[str, str | int | float] = Field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    task: Task = "classes"
    parts: tuple[tuple[str, int], ...] = ()
    structure: str | None = Field(None, max_length=_LONGEST, repr=False, description="the graph (graph/structure.py)")

    _written = unless_usual("structure", "task", "parts")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task == "classes" and self.num_classes < _FEWEST_CLASSES:
            raise ValueError(f"{self.num_classes} class: a network that classifies has two or more")
        if self.parts and (self.task != "tensors" or sum(self.sizes) != self.num_classes or len(self.parts) < 2):
            raise ValueError(f"parts {self.parts} are no outputs of {self.num_classes} numbers ({self.task})")
        if self.task != "classes" and self.classes:
            raise ValueError(f"class names of a network that gives no classes ({self.task})")
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.num_classes} classes")
        if min(self.input_shape) < 1:
            raise ValueError(f"input shape (C, H, W) must be positive, got {self.input_shape}")
        if len(self.preprocess.mean) not in {0, 1, self.input_shape[0]}:
            raise ValueError(f"mean has {len(self.preprocess.mean)} values for {self.input_shape[0]} channels")
        if tuple(sorted(set(self.dropped))) != self.dropped:
            raise ValueError("dropped names must be sorted and unique")
        return self

    def check_classes(self, what: str) -> None:
        """Raises InputError if the network gives no scores of classes, which `what` needs."""
        if self.task != "classes":
            raise InputError(
                f"{what} is for networks that give scores of classes; {self.variant} gives {self.outputs_text}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each of several outputs, how many numbers it has for an image."""
        return tuple(size for _, size in self.parts)

    def at_once(self, batch: int) -> int:
        """How many images at a time: `batch`, or fewer where maps or outputs would need much memory."""
        pixels = self.input_shape[1] * self.input_shape[2]
        return min(batch, max(1, _MOST_AT_ONCE // self.num_classes), max(1, _MOST_PIXELS_AT_ONCE // pixels))

    @property
    def outputs_text(self) -> str:
        """`10 classes`, `an embedding of 64 numbers`, `tensors of 3136 numbers`, `2 outputs: boxes 40, scores 10`."""
        if self.parts:
            return f"{len(self.parts)} outputs: {', '.join(f'{name} {size}' for name, size in self.parts)}"
        numbers = counted(self.num_classes, "number")
        kinds = {"embedding": f"an embedding of {numbers}", "tensors": f"tensors of {numbers}"}
        return kinds.get(self.task, f"{self.num_classes} classes")

    @property
    def origin(self) -> ModelSpec:
        """What it was cut from, to be held against another's: a graph is known by itself, not by its file's name."""
        return self.model_copy(update={"dropped": (), "variant": "" if self.structure else self.variant})

    def without(self, names: tuple[str, ...]) -> ModelSpec:
        """The spec after dropping `names` as well."""
        return self.model_copy(update={"dropped": tuple(sorted({*self.dropped, *names}))})


class Cost(Config):
    """Size of a network: learned parameters (batch-norm statistics excluded) and multiply-accumulates per image."""

    params: int
    macs: int


class Card(Config):
    """What travels inside an artifact's file: the spec, its cost and where it came from (sha256 of the parent)."""

    schema_version: int = 1
    spec: ModelSpec
    cost: Cost
    stage: str
    parent: str | None = None
    edgeres: str = ""
