from __future__ import annotations

from edgeres.compile.worker import distinct


def test_what_the_parser_says_of_every_node_is_said_once_with_its_count():
    said = [f"[parser.cpp::cast::12] layer{i}.conv1: weights are cast to FP16" for i in range(40)]
    assert distinct([*said, "no kernel for FC"]) == (f"{said[0]} (40 times)", "no kernel for FC")


def test_kinds_of_messages_beyond_the_most_are_counted_and_not_lost():
    found = distinct(["kind " + "x" * size for size in range(1, 26)])
    assert len(found) == 21
    assert found[-1] == "and 5 more of other kinds"
