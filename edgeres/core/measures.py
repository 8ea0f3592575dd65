"""How far one network's outputs are from another's on the same images: by what they are for, without labels.

    kl        sum_k p(k) log(p(k) / q(k))     scores of classes, in nats; p and q are softmax of whole and changed
    cosine    1 - a b / (|a| |b|)             an embedding
    error     |a - b|^2 / mean |a|^2          other tensors
    centred   |a - b|^2 / mean |a - m|^2      scores whose first guess is nearly always the same; m: mean of a

a is the whole network's, means go over images; smaller is nearer, 0 the same.
"""

from __future__ import annotations

from typing import Literal

from edgeres.core.spec import Task

Measure = Literal["kl", "cosine", "error", "centred"]
MEASURE_OF: dict[Task, Measure] = {"classes": "kl", "embedding": "cosine", "tensors": "error"}
NAME_OF: dict[Measure, str] = {
    "kl": "KL",
    "cosine": "1 - cosine",
    "error": "relative error",
    "centred": "relative error of the centred outputs",
}
OF_CLASSES = frozenset[Measure]({"kl", "centred"})  # the first of the scores is a guess, so points are of accuracy
# what a hundredth of what is lost is called, where a report has points of accuracy
LOST_OF: dict[Measure, str] = {
    "kl": "points of top-1",
    "cosine": "hundredths of cosine",
    "error": "% of relative error",
    "centred": "% of relative error",
}
