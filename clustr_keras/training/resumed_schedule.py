"""A learning rate that goes on in the middle of its schedule."""

from typing import Any, Self

import keras
from keras import ops

from clustr_keras.types import Tensor


@keras.saving.register_keras_serializable(package="clustr_keras")
class ResumedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from one of its steps on, for an optimizer that counts from 0.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        first_step: Integer, the step of `schedule` that step 0 is.

    Example:

    >>> schedule = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=100)
    >>> float(ResumedSchedule(schedule, 50)(0)) == float(schedule(50))
    True
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, first_step: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.first_step = first_step

    def __call__(self, step: Tensor) -> Tensor:
        """The learning rate of a step."""
        return self.schedule(ops.cast(step, "float32") + self.first_step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "first_step": self.first_step}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a schedule from what `get_config` returned."""
        schedule = keras.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["first_step"])
