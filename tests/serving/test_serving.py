import pytest

from clustr_keras import serving


def test_names_load_on_first_use():
    from clustr_keras.serving.server import LocalServer

    assert serving.LocalServer is LocalServer
    assert set(serving.__all__) <= set(dir(serving))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"Sever.*LocalServer"):
        _ = serving.Sever
