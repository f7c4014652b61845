"""How far a training has come."""

import keras

from clustr_keras.progress import Report


class EpochProgress(keras.callbacks.Callback):
    """Reports each finished epoch, with its accuracies, to the function that `progress_bar` yields.

    Example:

    >>> with progress_bar("Training", epochs) as report:
    ...     model.fit(batches, epochs=epochs, verbose=0, callbacks=[EpochProgress(report)])
    """

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Moves the bar by one epoch."""
        shown = [f"{name} {value:.3f}" for name, value in (logs or {}).items() if "accuracy" in name]
        self.report(epoch + 1, ", ".join(shown))
