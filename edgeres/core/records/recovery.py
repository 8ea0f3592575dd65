"""What a report of `recover`, or of `prune --recover`, tells of the methods: which of them left their mark.

It stands in the results, in those of prune under `recovery`: methods, solved (modules by what became of them), steps,
best_step, looks (step, score) and the scores held_out_first, held_out_bn, held_out_solve and held_out_best (0 is best).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WITHOUT_STEPS = frozenset({"bn", "solve"})  # they come first, in this order
WORSE, NOTHING_LEFT = "made it worse", "had nothing to refit"


def undone_in(results: Mapping[str, Any]) -> dict[str, str]:
    """The methods after which the weights are as before, with why: `made it worse`, `gained nothing`, ..."""
    found, solved, after = {}, results.get("solved"), results.get("held_out_solve")
    if solved is not None and not any(solved.values()):
        found["solve"] = NOTHING_LEFT
    elif after is not None and after > results.get("held_out_bn", results["held_out_first"]):
        found["solve"] = WORSE
    elif solved is not None and not solved["refitted"]:
        found["solve"] = "found nothing better" if solved["left_alone"] else "had no time"
    looks, best = results.get("looks"), results.get("held_out_best")
    is_idle = looks and not (results["best_step"] > 0 and best < looks[0][1])
    if is_idle or results.get("steps") == 0:
        why = "gained nothing" if is_idle else "had no time"
        found |= dict.fromkeys((one for one in results.get("methods", ()) if one not in WITHOUT_STEPS), why)
    return found


def marks_in(results: Mapping[str, Any]) -> list[str]:
    """The methods that changed the weights."""
    undone = undone_in(results)
    return [one for one in results.get("methods", ()) if one not in undone]
