from __future__ import annotations

import pytest

from edgeres.compile.config import check_rtx_targets
from edgeres.core.errors import InputError
from edgeres.runtime.manifest import JETSON_TARGETS, RTX_TARGETS


def test_known_targets_pass():
    check_rtx_targets(RTX_TARGETS)


@pytest.mark.parametrize("target", JETSON_TARGETS)
def test_a_jetson_target_is_refused_with_the_way_to_build_for_it(target):
    with pytest.raises(InputError, match=rf"{target} is Jetson .*edgeres compile MODEL.onnx --on NAME") as caught:
        check_rtx_targets(("sm86", target))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"), [(("sm98",), "unknown target 'sm98'; did you mean sm"), ((), "no target given")]
)
def test_an_unknown_target_is_guessed(wrong, message):
    with pytest.raises(InputError, match=message):
        check_rtx_targets(wrong)
