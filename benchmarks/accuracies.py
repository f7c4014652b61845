"""Accuracies of distance logits, which are radii in real arithmetic."""

import numpy as np


def accuracies(logits, labels, radii):
    """Columns of a table: the share that is right, and right with at least each radius, in percent."""
    own = logits[np.arange(len(labels)), labels]
    shares = {"clean": np.mean(np.argmax(logits, axis=-1) == labels)}
    shares |= {f"at {radius:.3g}": np.mean(own >= radius) for radius in radii}
    return {name: round(100 * float(share), 1) for name, share in shares.items()}
