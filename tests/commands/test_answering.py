import contextlib
import io
import json
import sys

import pytest

from clustr_keras.commands.answering import answering


@pytest.mark.parametrize("as_json", [False, True])
def test_stdout_is_one_document_or_what_people_read(as_json):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), answering(as_json) as answer:
        print("a library's note")
        answer({"radius": float("inf")}, "The radius is [large].")
        print("another one")
    if as_json:
        assert json.loads(out.getvalue()) == {"radius": None}
        assert err.getvalue() == "a library's note\nanother one\n"
    else:
        assert out.getvalue().splitlines() == ["a library's note", "The radius is [large].", "another one"]
        assert err.getvalue() == ""


def test_stdout_is_as_it_was_after_an_error():
    before = sys.stdout
    with contextlib.suppress(ValueError), answering(True):
        raise ValueError
    assert sys.stdout is before
