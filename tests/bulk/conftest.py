import io
import pathlib

import numpy as np
import PIL.Image
import pytest


@pytest.fixture
def photos(tmp_path, digits):
    """A folder of eight digits as PNG files, with their pixels, and five files that are invalid."""
    images = np.uint8(np.round(255 * digits[1][0][:8]))
    folder = tmp_path / "photos"
    for index, image in enumerate(images):
        path = folder / f"{'ab'[index % 2]}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (folder / "a" / "broken.png").write_bytes(png(images[0])[:-30])
    (folder / "a" / "text.jpg").write_bytes(b"not an image")
    (folder / "b" / "empty.PNG").write_bytes(b"")
    (folder / "b" / "large.png").write_bytes(png(np.zeros((9, 9, 1), "uint8")))
    (folder / "b" / "read me.txt").write_text("not listed")
    (folder / "c.png").symlink_to(pathlib.Path("a") / "text.jpg")
    return folder, images


@pytest.fixture(scope="session")
def saved(classifier, tmp_path_factory):
    """The classifier as a .keras file."""
    path = tmp_path_factory.mktemp("bulk") / "model.keras"
    classifier.save(path)
    return path


@pytest.fixture(scope="session")
def prepared(digits, tmp_path_factory):
    """A data_dir with the data set `few_digits`: 50 images of digits as `test`, in three files."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("prepared")
    images, labels = digits[1]
    pixels = np.uint8(np.round(255 * images[:50]))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="few_digits",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        ),
        split_datasets={
            "test": [(row, {"image": pixels[row], "label": int(labels[row])}) for row in range(50)],
            "train": [(row, {"image": pixels[row], "label": 0}) for row in range(3)],
        },
        data_dir=folder,
        download_config=tfds.download.DownloadConfig(num_shards=3),
    )
    assert len(list(folder.glob("few_digits/1.0.0/*test.tfrecord*"))) == 3
    return str(folder)


@pytest.fixture
def memory_files():
    """The files of Beam's file system `memory://`, which is empty: a dict by path."""
    pytest.importorskip("apache_beam", reason="needs the environment of make test-beam")
    from support.memory_file_system import MemoryFileSystem

    MemoryFileSystem.files.clear()
    yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


def png(image):
    file = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()
