"""The picture of `edgeres study paths`, as figure 6 of Veit et al. 2016: how many, how strong, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeres.core.figures import COLOURS
from edgeres.study.path_claims import Lengths
from edgeres.study.result import Study

PANELS, WIDTH_IN = 3, 13.0


def draw_paths(axes: Sequence[Any], lengths: Lengths, study: Study) -> None:
    """Three panels over the path's length."""
    ks = [row.length for row in lengths.rows]
    axes[0].bar(ks, [100 * row.share_of_paths for row in lengths.rows], color=COLOURS[0])
    axes[0].set_ylabel("share of all paths, %")
    axes[0].set_title(f"{study.networks[0]}: 2^{ks[-1]} paths", fontsize=10)
    _draw_magnitudes(axes[1], lengths, study)
    _draw_shares(axes[2], lengths)
    for panel in axes:
        panel.set_xlabel("modules on the path")
        panel.set_xlim(-0.6, ks[-1] + 0.6)


def _draw_magnitudes(panel: Any, lengths: Lengths, study: Study) -> None:
    ks = np.asarray([row.length for row in lengths.rows])
    means = np.asarray([row.magnitude for row in lengths.rows])
    below = means - [row.magnitude_low for row in lengths.rows]
    above = np.asarray([row.magnitude_high for row in lengths.rows]) - means
    panel.errorbar(ks, means, [below, above], fmt="o", markersize=3, capsize=2, label="mean, 95 % interval")
    if (means > 0).all():
        slope, intercept = np.polyfit(ks, np.log(means), 1)
        label = f"× {np.exp(slope):.2f} per module, R² {lengths.r2.value:.2f}"
        panel.plot(ks, np.exp(slope * ks + intercept), color=COLOURS[1], linewidth=1, label=label)
    panel.set_yscale("log")
    panel.set_ylabel("gradient of one path / whole gradient")
    panel.set_title(f"{lengths.draws} paths a length, n = {study.n:,} train images", fontsize=10)
    panel.legend(fontsize=8)


def _draw_shares(panel: Any, lengths: Lengths) -> None:
    ks = [row.length for row in lengths.rows]
    effective = lengths.effective_bound
    panel.axvspan(effective.shortest - 0.5, effective.longest + 0.5, color=COLOURS[0], alpha=0.12, linewidth=0)
    panel.bar(ks, [100 * row.share_bound for row in lengths.rows], color=COLOURS[0], label="count × magnitude")
    panel.plot(ks, [100 * row.share for row in lengths.rows], "o-", color=COLOURS[1], markersize=3, label="exact")
    panel.set_ylabel("share of the gradient, %")
    share = 100 * effective.share_of_paths.value
    panel.set_title(f"95 % in {effective.shortest} to {effective.longest}: {share:.2g} % of paths", fontsize=10)
    panel.legend(fontsize=8)
