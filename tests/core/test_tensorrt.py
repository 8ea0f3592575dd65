import pytest

from edgeres.core.jetpacks import newest_opset


@pytest.mark.parametrize(
    ("version", "opset"),
    [
        ("8.0.1", 13),
        ("8.2.1.8", 13),
        ("8.5.2", 17),
        ("8.6", 17),
        ("10.3.0.30", 20),
        ("10.13.3", 24),
        ("10.16.2", 24),
        ("11.4", 24),
        ("7.1.3", None),
        ("", None),
        ("new", None),
    ],
)
def test_a_version_reads_what_the_newest_row_before_it_reads(version, opset):
    assert newest_opset(version) == opset
