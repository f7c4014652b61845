"""The plots of an evaluation's report."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from clustr_keras.evaluation.plots import THEME, certified_line, drawing
from clustr_keras.types import Floats, Ints


def accuracy_plot(
    proved: tuple[Floats, Floats] | None,
    robust: Mapping[str, Sequence[tuple[float, float]]],
    name: str = "certified accuracy",
) -> str:
    """Draws certified accuracy, and robust accuracy under all attacks, against eps: one panel for each norm.

    Args:
        proved: Radii and shares, floats `[M]` each, of the certified accuracy in l_2; or `None`.
        robust: Dict, norm -> pairs `(eps, robust accuracy)`, the clean accuracy at eps 0 among them.
        name: What the accuracy that is proved is called.

    Returns:
        An `<svg>` element.
    """
    label = f"{name.capitalize()} and robust accuracy under all attacks, against eps"
    norms = sorted(robust)
    with drawing("accuracy", 230 * len(norms), label) as (figure, svg):
        for axes, norm in zip(np.atleast_1d(figure.subplots(len(norms), 1)), norms, strict=True):
            eps, shares = np.array(sorted(robust[norm])).T
            end = 1.08 * eps.max()
            if norm == "l_2" and proved is not None:
                certified_line(axes, *proved, end, name)
            axes.plot(eps, shares, "D", color=THEME["attack"], markersize=5)
            axes.text(1, 1.02, "◆ robust accuracy", color=THEME["attack"], ha="right", transform=axes.transAxes)
            axes.set(xlim=(0, end), ylim=(0, 1.08), xlabel=f"eps ({'l₂' if norm == 'l_2' else 'l∞'}, pixels in [0, 1])")
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
            axes.set_yticks(np.linspace(0, 1, 6))
    return svg[0]


def class_radii_plot(radius: Floats, labels: Ints, class_names: Sequence[str]) -> str:
    """Draws the spread of the radii in each class: from the lower to the upper quartile, with the median.

    Args:
        radius: Floats `[N]`; 0 for a wrong prediction, which has none.
        labels: Ints `[N]`, the true classes.
        class_names: C strings.

    Returns:
        An `<svg>` element.
    """
    classes = len(class_names)
    with drawing("classes", 60 + 18 * classes, "Radii by class: quartiles and median") as (figure, svg):
        axes = figure.subplots()
        for place in range(classes):
            own = radius[labels == place]
            if len(own) == 0:
                continue
            low, middle, high = np.quantile(own, (0.25, 0.5, 0.75))
            axes.plot([low, high], [place, place], color=THEME["accent"], linewidth=5, alpha=0.35)
            axes.plot(middle, place, "|", color=THEME["accent"], markersize=11, markeredgewidth=2)
        axes.set(xlabel="radius", xlim=(0, None), ylim=(classes - 0.4, -0.6))
        axes.set_yticks(range(classes), class_names)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return svg[0]
