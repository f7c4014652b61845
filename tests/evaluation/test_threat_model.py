import pytest

from clustr_keras.evaluation.threat_model import DEFAULT_THREAT_MODELS, ThreatModel


@pytest.mark.parametrize(
    ("text", "norm", "eps", "shown"),
    [
        ("l_inf:8/255", "l_inf", 8 / 255, "l_inf 8/255"),
        ("l_inf:25.5/255", "l_inf", 0.1, "l_inf 25.5/255"),
        ("l_2:36/255", "l_2", 36 / 255, "l_2 36/255"),
        ("l_2:0.5", "l_2", 0.5, "l_2 0.5"),
        ("l_2:1.58", "l_2", 1.58, "l_2 1.58"),
    ],
)
def test_it_is_read_and_shown(text, norm, eps, shown):
    threat = ThreatModel.parse(text)
    assert (threat.norm, threat.eps) == (norm, pytest.approx(eps))
    assert str(threat) == shown


@pytest.mark.parametrize("text", ["l_2", "l_2:", "l_2:much", "l_2:1/0", "l_1:0.5", "l_2:-1", "l_2:0", "l_2:nan"])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"a norm and an eps|norm must be|eps must be"):
        ThreatModel.parse(text)


def test_the_default_ones_are_those_of_the_paper_and_of_certificates():
    assert [str(threat) for threat in DEFAULT_THREAT_MODELS] == [
        "l_inf 2/255",
        "l_inf 8/255",
        "l_inf 16/255",
        "l_inf 25.5/255",
        "l_2 36/255",
        "l_2 0.5",
        "l_2 1",
        "l_2 1.58",
    ]
