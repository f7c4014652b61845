"""Certified accuracies, in percent; radii in real arithmetic."""

import numpy as np


def share_at(radius, is_right, limit):
    """Certified accuracy at a radius."""
    return round(100 * float(np.mean(is_right & (radius >= limit))), 3)


def accuracies(class_ids, radius, labels, radii):
    """Columns of a table: the share that is right, and right with at least each radius."""
    is_right = class_ids == labels
    return {"clean": share_at(radius, is_right, 0.0), **{f"at {r:.3g}": share_at(radius, is_right, r) for r in radii}}


def accuracies_of_logits(logits, labels, radii):
    """The same of distance logits, which are the radii."""
    return accuracies(np.argmax(logits, axis=-1), np.max(logits, axis=-1), labels, radii)
