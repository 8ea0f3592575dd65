"""Names in tables, and what data sets are called."""

from __future__ import annotations

import pytest

from edgeres.core.names import canonical_data_name


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ("folder:photos/", "folder:photos"),
        ("folder:./photos", "folder:photos"),
        ("folder:/data//photos/", "folder:/data/photos"),
        ("folder:", "folder:"),
        ("digits", "digits"),
        ("my.package:function", "my.package:function"),
    ],
)
def test_a_folder_is_called_the_same_however_it_is_typed(given, called):
    assert canonical_data_name(given) == called
