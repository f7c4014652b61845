import pytest

from clustr_keras.whole_file import whole_file


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "figures.json"
    for text in ("old", "new"):
        with whole_file(path) as file:
            file.write_text(text)
            assert file.suffix == ".json"
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_stays_and_nothing_is_left(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("old")

    def fail():
        with whole_file(path) as file:
            file.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        assert one != other
        one.touch()
        other.touch()
