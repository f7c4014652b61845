"""Draws the pictures of the documentation: geometry.png, radii.png, directions.png.

Run: python docs/pictures/make.py [--model runs/demo/model.keras] [--output docs/pictures]. Without a model it trains
one on the bundled digits first.
"""

import argparse
import pathlib

import keras
import matplotlib
import numpy as np

from clustr_keras import certificates
from clustr_keras.attacks import ClearFlips, ProjectedGradientDescent, slide_flips
from clustr_keras.data import load_digits
from clustr_keras.training import train_certified

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DISTANCES = (0.3, 0.5, 1.0, 1.58)
INK, BLUE, RED = "#222222", "#3f51b5", "#c62828"


def draw_geometry(path):
    """Voronoi cells of two classes with two centers each, an embedding, and its three radii."""
    centers = np.array([[[-2.19, -0.36], [0.6, 1.25]], [[-1.36, 1.98], [1.76, 1.02]]], "float32")
    embedding = np.array([[-0.28, -0.49]], "float32")
    axis = np.linspace(-3.4, 3.0, 640), np.linspace(-2.0, 2.6, 460)
    plane = np.stack(np.meshgrid(*axis), axis=-1)
    distances = np.linalg.norm(plane[:, :, None, None] - centers, axis=-1)
    nearest = distances.reshape(*plane.shape[:2], -1).argmin(axis=-1)
    figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
    axes.contourf(*axis, nearest // 2, levels=[-0.5, 0.5, 1.5], colors=["#e3e7fb", "#fde3e1"])
    for cell in range(4):
        axes.contour(*axis, nearest == cell, levels=[0.5], colors="white", linewidths=1.5)
    for owner, color in ((0, BLUE), (1, RED)):
        axes.plot(*centers[owner].T, "o", color=color, ms=9, label=f"centers of class {'c' if owner == 0 else 'j'}")
    axes.plot(*embedding[0], "*", color=INK, ms=15, label="embedding z")
    methods = {"nearest": ":", "union": "--", "exact": "-"}
    for name, style in methods.items():
        radius = float(np.asarray(getattr(certificates, f"{name}_radius")(embedding, centers))[0])
        axes.add_patch(plt.Circle(embedding[0], radius, fill=False, color=INK, ls=style, lw=1.6))
        axes.plot([], color=INK, ls=style, lw=1.6, label=f"{name}: {radius:.2f}")
    axes.set(xlim=(-3.4, 3.0), ylim=(-2.0, 2.6), xticks=[], yticks=[], aspect="equal")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def nearest_flips(model, images, class_ids):
    """For each image an image of another class, as near as an attack and a walk along the boundary find it."""
    logits = model.certifier().deployed_logits
    attack = ProjectedGradientDescent(logits, "l_2", steps=100, restarts=5, decay=True)
    return slide_flips(ClearFlips(logits), images, attack(images, class_ids, eps=3.0).adversarial, class_ids)


def at_distance(image, direction, distance):
    """The image moved along a direction, clipped to [0, 1], to where its l_2 distance is as given."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        moved = np.clip(image + middle * direction, 0.0, 1.0)
        low, high = (middle, high) if np.linalg.norm(moved - image) < distance else (low, middle)
    return moved.astype("float32")


def draw_radii(model, images, labels, path):
    """Four images; each moved by its certified radius at random, and to the nearest flip that was found."""
    certificate = model.certify(images)
    right = np.flatnonzero(certificate.class_ids == labels)
    order = right[np.argsort(certificate.certified_radius[right])]
    rows = order[(np.linspace(0.1, 0.95, 4) * len(order)).astype(int)]
    chosen, radius, class_ids = images[rows], certificate.certified_radius[rows], certificate.class_ids[rows]
    flips = nearest_flips(model, chosen, class_ids)
    rng = np.random.default_rng(0)
    noisy = [at_distance(x, rng.normal(size=x.shape), r) for x, r in zip(chosen, radius, strict=True)]
    found = model.certify(flips).class_ids
    figure, axes = plt.subplots(3, 4, figsize=(5.2, 4.9), layout="constrained")
    for column in range(4):
        distance = np.linalg.norm(flips[column] - chosen[column])
        show(axes[0, column], chosen[column], f"a {class_ids[column]}, proved\nup to {radius[column]:.2f}")
        show(axes[1, column], noisy[column], f"still a {class_ids[column]}")
        show(axes[2, column], flips[column], f"a {found[column]}, at {distance:.2f}", RED)
    for row, name in enumerate(("image", "noise of that norm", "nearest flip found")):
        axes[row, 0].set_ylabel(name)
    save(figure, path)


def draw_directions(model, images, labels, path):
    """One image at several distances: along a random direction, and where an attack at that distance leads."""
    certificate = model.certify(images)
    right = np.flatnonzero(certificate.class_ids == labels)
    row = right[np.argsort(certificate.certified_radius[right])[int(0.75 * len(right))]]
    image, radius = images[row : row + 1], float(certificate.certified_radius[row])
    label = certificate.class_ids[row : row + 1]
    direction = np.random.default_rng(1).normal(size=image[0].shape)
    random = np.stack([at_distance(image[0], direction, distance) for distance in DISTANCES])
    attack = ProjectedGradientDescent(model.certifier().deployed_logits, "l_2", steps=100, restarts=5, decay=True)
    worst = np.concatenate([attack(image, label, distance).adversarial for distance in DISTANCES])
    worst = np.stack([at_distance(image[0], w - image[0], d) for w, d in zip(worst, DISTANCES, strict=True)])
    figure, axes = plt.subplots(2, 5, figsize=(5.6, 2.8), layout="constrained")
    for place, (name, moved) in enumerate((("random", random), ("worst found", worst))):
        show(axes[place, 0], image[0], f"a {label[0]}, proved\nup to {radius:.2f}")
        axes[place, 0].set_ylabel(name)
        answers = model.certify(moved).class_ids
        for column, (distance, answer) in enumerate(zip(DISTANCES, answers, strict=True)):
            if distance < radius and answer != label[0]:
                raise RuntimeError(f"a flip at {distance}, inside the certified radius {radius}.")
            color = INK if answer == label[0] else RED
            show(axes[place, column + 1], moved[column], f"at {distance:g}: a {answer}", color)
    save(figure, path)


def show(axes, image, title, color=INK):
    """Draws one image, dark on light as ink is."""
    axes.imshow(image[..., 0], cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=color)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_color("0.8")


def save(figure, path):
    """Writes a small PNG."""
    figure.savefig(path, dpi=150, pil_kwargs={"optimize": True}, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    arguments = parser.parse_args()
    (x_train, y_train), (x_test, y_test) = load_digits()
    if arguments.model is not None:
        classifier = keras.models.load_model(arguments.model)
    else:
        classifier = train_certified(x_train, y_train, class_names="0123456789")
    draw_geometry(arguments.output / "geometry.png")
    draw_radii(classifier, x_test, y_test, arguments.output / "radii.png")
    draw_directions(classifier, x_test, y_test, arguments.output / "directions.png")
