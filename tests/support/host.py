"""One of several processes that train a model together, or one that trains it by itself."""

import keras
import numpy as np

from clustr_keras import ClustrClassifier
from clustr_keras.consistency import QTRADES
from clustr_keras.data import load_digits

BATCH, STEPS, EPOCHS = 32, 4, 2


def main(rank, count, port, file):
    """Trains on this process's share of each batch; the first process saves.

    Args:
        rank, count: Integers, which process of how many this is.
        port: Integer, where the first one is found.
        file: Path of the .npz file to write.
    """
    if count > 1:
        keras.distribution.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=rank)
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    keras.utils.set_random_seed(0)
    (images, labels), _ = load_digits()
    share = BATCH // count
    of_batch = slice(rank * share, (rank + 1) * share)
    x = images[: STEPS * BATCH].reshape(STEPS, BATCH, 8, 8, 1)[:, of_batch].reshape(-1, 8, 8, 1)
    y = labels[: STEPS * BATCH].reshape(STEPS, BATCH)[:, of_batch].reshape(-1)

    layers = [keras.layers.Flatten(), keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    model = ClustrClassifier(keras.Sequential([keras.Input((8, 8, 1)), *layers]), 10)
    model.compile(
        keras.optimizers.SGD(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        consistency=QTRADES(1.0, eps=0.1),
    )
    history = model.fit(x, y, batch_size=share, epochs=EPOCHS, shuffle=False, verbose=0).history
    keras.distribution.set_distribution(None)  # Keras would wait for all processes to save
    if rank == 0:
        model.save(file.replace(".npz", ".keras"))
        weights = {f"weight{index}": value for index, value in enumerate(model.get_weights())}
        np.savez(file, loss=history["loss"], accuracy=history["accuracy"], **weights)
