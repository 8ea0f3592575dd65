"""`edgeres study NAME`: each study is a stage and its command is made like any stage's."""

from __future__ import annotations

import click

from edgeres.cli.stages import stage_command
from edgeres.core.errors import InputError, did_you_mean

STUDIES = {
    "lesion": "Delete each module, then k at random: how loosely are they coupled?",
    "reorder": "Swap modules of one shape: error against Kendall's tau.",
    "paths": "Length of the paths through the network, and which carry gradient.",
    "gradients": "Gradient norms by layer, plain and residual, with and without batch norm.",
    "depth": "Deeper networks with and without shortcuts.",
    "ordering": "The five orderings of batch norm, activation and addition.",
    "connect": "One-layer modules, fully connected residual networks, shortcuts A, B and C.",
}


class StudyGroup(click.Group):
    """The studies by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As in the table above."""
        return list(STUDIES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The study's command."""
        return stage_command(name, STUDIES[name]) if name in STUDIES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`."""
        with formatter.section("Studies"):
            formatter.write_dl(list(STUDIES.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds a guess to an unknown study's message."""
        if args[0] not in STUDIES:
            raise InputError(f"no study {args[0]!r}{did_you_mean(args[0], STUDIES)} (see: edgeres study --help)")
        return super().resolve_command(ctx, args)


@click.group(cls=StudyGroup)
def study() -> None:
    """Why modules can be dropped: published claims, tested on your network or on small ones.

    Each study writes study.json, study.csv and study.svg into the run (lesion: lesion.json, .csv and .svg) and says
    whether this run supports the claim.
    """
