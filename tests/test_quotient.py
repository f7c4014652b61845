import pytest

from clustr_keras.quotient import quotient


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("51/255", 0.2), ("25.5/255", 0.1), ("-1", -1.0), ("3/", 3.0)]
)
def test_numbers_and_fractions_are_read(text, value):
    assert quotient(text) == value


@pytest.mark.parametrize("text", ["", "/3", "1/0", "much", "1/2/3"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match=r"is no number, such as 0\.5 or 36/255"):
        quotient(text)
