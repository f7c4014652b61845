"""Whether the package works on this machine: a tiny model, certified."""

from typing import Any


def self_check() -> dict[str, Any]:
    """Certifies a few random images, and moves each of them almost as far as its radius allows.

    Returns:
        Dict: `passed`; `certified`, whether float32 radii are certified on this machine; and `detail`, one line.
    """
    import keras
    import numpy as np

    from clustr_keras import ClustrClassifier
    from clustr_keras.backbones import lipschitz_mlp

    keras.utils.set_random_seed(0)
    model = ClustrClassifier(lipschitz_mlp((4, 4, 1), widths=(16, 8)), num_classes=3)
    generator = np.random.default_rng(0)
    images = generator.uniform(0.25, 0.75, (16, 4, 4, 1)).astype("float32")
    certificate = model.certify(images)
    if certificate.certified_radius is None:
        detail = "the arithmetic in use is not IEEE float32, so that no radius is certified"
        return {"passed": True, "certified": False, "detail": detail}
    directions = generator.normal(size=images.shape)
    directions /= np.linalg.norm(directions.reshape(16, -1), axis=-1)[:, None, None, None]
    steps = np.minimum(0.99 * certificate.certified_radius, 0.25)[:, None, None, None]
    moved = model.certify((images + steps * directions).astype("float32"))
    passed = bool((certificate.certified_radius > 0).any() and (moved.class_ids == certificate.class_ids).all())
    held = "kept their class within it" if passed else "DID NOT keep their class within it: do not trust its radii"
    detail = f"16 images certified, mean radius {certificate.certified_radius.mean():.4f}; moved, they {held}"
    return {"passed": passed, "certified": True, "detail": detail}
