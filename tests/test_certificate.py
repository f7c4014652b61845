import numpy as np


def test_a_wrong_answer_is_never_certified_accurate(classifier, digits):
    _, (images, labels) = digits
    certificate = classifier.certify(images)
    assert certificate.accuracy_at(0.0, (certificate.class_ids + 1) % 10) == 0.0
    expected = np.mean((certificate.class_ids == labels) & (certificate.certified_radius >= 0.3))
    assert certificate.accuracy_at(0.3, labels) == expected
