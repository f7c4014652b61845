import pytest

from clustr_keras.serving.version_folders import version_number, versions


@pytest.mark.parametrize("name", ["", ".3.tmp", "3.partial", "v3", "-3", "+3", "3 ", "٣", "³", "9223372036854775808"])
def test_other_names_are_no_versions(name):
    assert version_number(name) is None


def test_numbers_are_versions_in_their_own_order(tmp_path):
    for name in ("10", "9", "007", "1.tmp", "9223372036854775808", "9223372036854775807"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [7, 9, 10, 2**63 - 1]
