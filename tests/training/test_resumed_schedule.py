import keras
import pytest

from clustr_keras.training.resumed_schedule import ResumedSchedule


def test_a_schedule_goes_on_from_its_middle_and_can_be_saved():
    schedule = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=100)
    resumed = ResumedSchedule(schedule, 40)
    for again in (resumed, keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(resumed))):
        for step in (0, 10, 60):
            assert float(again(step)) == pytest.approx(float(schedule(40 + step)))
