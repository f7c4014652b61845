"""The pictures of the report: plots as inline SVG, images as PNG data URIs."""

import base64
import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image
from sklearn.decomposition import PCA

from clustr_keras.types import Bools, Floats, Ints

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Placeholders that leave matplotlib as CSS variables: one drawing serves light and dark pages.
THEME = {name: f"#0102{i:02x}" for i, name in enumerate(("ink", "faint", "rule", "paper", "accent", "attack", "alert"))}
# 400 units wide: text is 11 px high when a phone shrinks the plot to 350 px, and 16 px on a desktop.
WIDTH = 400
STYLE: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "svg.hashsalt": "clustr_keras",
    "text.parse_math": False,
    "font.size": 12.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": THEME["faint"],
    "axes.labelcolor": THEME["ink"],
    "text.color": THEME["ink"],
    "xtick.color": THEME["faint"],
    "ytick.color": THEME["faint"],
    "axes.linewidth": 0.7,
}
# Above this many points, one SVG element each would make the file too large.
MAX_VECTOR_POINTS = 2000


def certified_accuracy_plot(
    radii: Floats, shares: Floats, attacks: Sequence[tuple[float, float, float]], marked: Sequence[tuple[float, float]]
) -> str:
    """Draws certified accuracy against radius, and robust accuracies beside it.

    Args:
        radii: Floats `[M]`, ascending: every radius at which the curve drops, 0 first.
        shares: Floats `[M]`, certified accuracy at exactly those radii.
        attacks: Triples `(eps, robust accuracy, certified accuracy at eps)` of the l_2 attacks.
        marked: Pairs `(radius, certified accuracy)` to write on the curve.

    Returns:
        An `<svg>` element.
    """
    label = "Certified accuracy against radius, with the robust accuracies under the l_2 attacks"
    with drawing("curve", 270, label) as (figure, svg):
        axes = figure.subplots()
        end = 1.04 * max([radii[-1], *(eps for eps, _, _ in attacks), *(radius for radius, _ in marked)])
        certified_line(axes, radii, shares, end)
        for radius, share in marked:
            axes.plot(radius, share, "o", color=THEME["accent"], markersize=4)
            # Below the line, or above it where the axis is too near.
            place = ((-5, -4), "right", "top") if share > 0.12 else ((4, 3), "left", "bottom")
            _note(axes, share, radius, "accent", *place)
        labelled = -np.inf
        # At one eps the lowest point comes first: it is the tightest, and the one that gets the label.
        for eps, robust, certified in sorted(attacks):
            axes.plot([eps, eps], [certified, robust], ":", color=THEME["attack"], linewidth=1)
            axes.plot(eps, robust, "D", color=THEME["attack"], markersize=5)
            if eps - labelled > 0.14 * end:
                _note(axes, robust, eps, "attack", (0, 6), "center", "bottom")
                labelled = eps
        axes.set(xlim=(0, end), ylim=(0, 1.08), xlabel="radius, eps (l₂, pixels in [0, 1])")
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.spines["left"].set_bounds(0, 1)
        if attacks:
            axes.text(1, 1.02, "◆ robust accuracy", color=THEME["attack"], ha="right", transform=axes.transAxes)
    return svg[0]


def radius_histogram(certified_radius: Floats, is_right: Bools) -> str:
    """Draws how many right (upwards) and wrong (downwards) predictions have which certified radius.

    Args:
        certified_radius: Floats `[N]`.
        is_right: Booleans `[N]`.

    Returns:
        An `<svg>` element.
    """
    with drawing("radii", 230, "Histogram of the certified radii of right and wrong predictions") as (figure, svg):
        axes = figure.subplots()
        edges = np.linspace(0, certified_radius.max() or 1.0, 31)
        for sign, chosen, color in ((1, is_right, "accent"), (-1, ~is_right, "alert")):
            counts, _ = np.histogram(certified_radius[chosen], edges)
            axes.bar(edges[:-1], sign * counts, np.diff(edges) * 0.88, align="edge", color=THEME[color])
        axes.axhline(0, color=THEME["faint"], linewidth=0.7)
        axes.spines["bottom"].set_visible(False)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{abs(count):.0f}"))
        axes.set(xlabel="certified radius", ylabel="test images", xlim=(0, edges[-1]))
        axes.text(0, 1.02, f"▲ right: {is_right.sum()}", color=THEME["accent"], transform=axes.transAxes)
        wrong = f"▼ wrong: {(~is_right).sum()}"
        axes.text(1, 1.02, wrong, color=THEME["alert"], ha="right", transform=axes.transAxes)
    return svg[0]


def embedding_map(
    embeddings: Floats, centers: Floats, labels: Ints, is_right: Bools, class_names: Sequence[str]
) -> tuple[str, float]:
    """Draws the embeddings and cluster centers on their first two principal components.

    Embeddings of dimension 1 are spread over one row per class instead.

    Args:
        embeddings: Floats `[N, D]`.
        centers: Floats `[C, K, D]`.
        labels: Integers `[N]`, the true classes.
        is_right: Booleans `[N]`; wrong predictions get a ring.
        class_names: C strings.

    Returns:
        An `<svg>` element, and the share of the variance that it shows.
    """
    classes, per_class, dimension = centers.shape
    center_labels = np.repeat(np.arange(classes), per_class)
    cloud = np.concatenate([embeddings, centers.reshape(-1, dimension)]).astype(np.float64)
    if dimension == 1:
        shares = np.ones(1)
        points = np.column_stack([cloud[:, 0], -np.append(labels, center_labels)])
    else:
        with np.errstate(invalid="ignore"):  # A collapsed embedding has no variance to share out.
            pca = PCA(2, random_state=0).fit(cloud)
        shares, points = np.nan_to_num(pca.explained_variance_ratio_), pca.transform(cloud)
    colors = _class_colors(classes)
    points, marks = points[: len(embeddings)], points[len(embeddings) :]
    with drawing("map", 380, "Map of the embeddings and the cluster centers") as (figure, svg):
        axes = figure.subplots()
        many = len(points) > MAX_VECTOR_POINTS
        axes.scatter(points[:, 0], points[:, 1], 10, c=colors[labels], alpha=0.7, linewidth=0, rasterized=many)
        wrong = points[~is_right]
        axes.scatter(wrong[:, 0], wrong[:, 1], 55, facecolor="none", edgecolor=THEME["ink"], linewidth=1.1)
        outlined: dict[str, Any] = {"marker": "X", "edgecolor": THEME["ink"], "linewidth": 0.8, "zorder": 3}
        axes.scatter(marks[:, 0], marks[:, 1], 90, c=colors[center_labels], **outlined)
        axes.margins(0.1)
        axes.set_xlabel("embedding" if dimension == 1 else f"first component ({100 * shares[0]:.0f} % of the variance)")
        if dimension == 1:
            axes.yaxis.set_visible(False)
            axes.spines["left"].set_visible(False)
        else:
            axes.set_aspect("equal", adjustable="datalim")  # Distances are what the classifier goes by.
            axes.set_ylabel(f"second component ({100 * shares[1]:.0f} %)")
        # The first center of every class before the second ones: those give way where there is no room.
        order = np.argsort(np.tile(np.arange(per_class), classes), kind="stable")
        names = [class_names[label] for label in center_labels[order]]
        _name_centers(figure, axes, marks[order], names, required=classes if classes <= 20 else 0)
    return svg[0], float(shares.sum())


def image_uri(image: Floats) -> str:
    """Turns floats `[H, W]` or `[H, W, C]` in [0, 1] into a PNG data URI, one pixel for one pixel."""
    pixels = np.rint(255 * image).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def difference_uri(difference: Floats) -> tuple[str, int]:
    """Draws a signed difference, magnified as far as no pixel saturates.

    Red is brighter and blue darker where there is one channel; three channels are each shown around middle gray.

    Args:
        difference: Floats `[H, W]` or `[H, W, C]` in [-1, 1].

    Returns:
        A PNG data URI, and the magnification: one of 1, 2, 5, 10, 20, 50 and so on.

    Example:
    >>> difference_uri(np.full((8, 8), 0.15))[1]
    5
    """
    largest = np.abs(difference).max()
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    magnification = max(step for step in steps if step == 1 or step * largest <= 1) if largest else 1
    values = np.clip(0.5 + 0.5 * magnification * difference, 0, 1)
    if values.ndim == 3 and values.shape[-1] == 3:
        return image_uri(values), magnification
    return image_uri(matplotlib.colormaps["RdBu_r"](values.reshape(values.shape[:2]))[..., :3]), magnification


@contextlib.contextmanager
def drawing(name: str, height: float, label: str) -> Iterator[tuple[Figure, list[str]]]:
    """Yields a figure in the report's style and a list that receives its `<svg>` when the block ends."""
    svg: list[str] = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The browser draws the text, so that glyphs missing from matplotlib's font are not missing there.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        yield figure, svg
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, dpi=216)
    drawing = buffer.getvalue().partition("</defs>")[2].rpartition("</svg>")[0]
    # Several drawings share one page, so their ids must not meet.
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    for variable, color in THEME.items():
        drawing = drawing.replace(color, f"var(--{variable})")
    svg.append(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">{drawing}</svg>')


def certified_line(axes: Axes, radii: Floats, shares: Floats, end: float, name: str = "certified accuracy") -> None:
    """Draws certified accuracy up to a radius `end`, with its name above the axes."""
    # The share at r counts radii >= r, so each value holds up to and including its radius: a "pre" step.
    x, y = np.append(radii, [radii[-1], end]), np.append(shares, [0.0, 0.0])
    axes.fill_between(x, y, step="pre", color=THEME["accent"], alpha=0.12, linewidth=0)
    axes.step(x, y, where="pre", color=THEME["accent"], linewidth=1.6)
    # Above the axes, where no point can lie beneath it.
    axes.text(0, 1.02, f"— {name}", color=THEME["accent"], transform=axes.transAxes)


def _note(axes, share, radius, color, offset, ha, va):
    text = f"{100 * share:.1f} %"
    axes.annotate(text, (radius, share), offset, textcoords="offset points", color=THEME[color], ha=ha, va=va)


def _name_centers(figure, axes, marks, names, required):
    """Writes names beside marks; all but the first `required` are left out where they would overlap."""
    figure.draw_without_rendering()  # Fixes the layout, and with it where the marks are in points.
    height = STYLE["font.size"]
    spots = axes.transData.transform(marks) / figure.dpi * 72
    frame = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()).extents * 72
    taken: list[tuple[Floats, Floats]] = []
    for spot, name, is_required in zip(spots, names, np.arange(len(names)) < required, strict=True):
        half = np.array([0.34 * height * len(name) + 1, 0.55 * height])
        choices = [
            spot + np.array([x, y]) * (half + reach)
            for reach in (4, 14, 26)
            for x, y in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
        ]

        def cost(middle, half=half):
            overlap = sum(np.prod(np.maximum(0, half + size - np.abs(middle - other))) for other, size in taken)
            on_marks = sum(np.all(np.abs(spots - middle) < half + 4, axis=1)) * 10
            outside = np.maximum(0, frame[:2] - middle + half).sum() + np.maximum(0, middle + half - frame[2:]).sum()
            return overlap + on_marks + 20 * outside

        best = min(choices, key=cost)
        if is_required or cost(best) == 0:
            taken.append((best, half))
            at = axes.transData.inverted().transform(best / 72 * figure.dpi)
            axes.text(*at, name, ha="center", va="center", zorder=4, fontweight="bold")


def _class_colors(classes):
    """Red, green and blue of each, `[classes, 3]`."""
    if classes > 20:
        return matplotlib.colormaps["hsv"](np.arange(classes) / classes)[:, :3]
    return matplotlib.colormaps["tab10" if classes <= 10 else "tab20"](np.arange(classes))[:, :3]
