"""`edgeres study NAME`: each study is a stage and its command is made like any stage's."""

from __future__ import annotations

import click

from edgeres.cli.main import TableGroup
from edgeres.cli.stages import stage_command

STUDIES = {
    "lesion": "Delete each module, then k at random: how loosely are they coupled?",
    "reorder": "Swap modules of one shape: error against Kendall's tau.",
    "paths": "Length of the paths through the network, and which carry gradient.",
    "gradients": "Gradient norms by layer, plain and residual, with and without batch norm.",
    "depth": "Deeper networks with and without shortcuts.",
    "ordering": "The five orderings of batch norm, activation and addition.",
    "connect": "One-layer modules, fully connected residual networks, shortcuts A, B and C.",
}


class StudyGroup(TableGroup):
    """The studies by name."""

    table, kind = STUDIES, "study"

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The study's command."""
        return stage_command(name, STUDIES[name]) if name in STUDIES else None


@click.group(cls=StudyGroup)
def study() -> None:
    """Why modules can be dropped: published claims, tested on your network or on small ones.

    Each study writes study.json, study.csv and study.svg into the run (lesion: lesions.json, .csv and .svg) and says
    whether this run supports the claim.
    """
