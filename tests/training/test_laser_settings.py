"""What an adapter cannot be trained with is refused before anything is read."""

import math

import pytest

from laser_peft.training import LaserSettings, SASRecSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number, got inf"),
        ({"weight_decay": -1.0}, "weight_decay must not be below 0, got -1.0"),
        ({"weight_decay": math.nan}, "weight_decay must be a finite number, got nan"),
        ({"weight_decay": math.inf}, "weight_decay must be a finite number, got inf"),
        ({"validation_users": -3}, "validation_users must not be below 0, got -3"),
        ({"num_negatives": -1}, "num_negatives must not be below 0, got -1"),
        ({"item_epochs": -1}, "item_epochs must not be below 0, got -1"),
        ({"epochs": math.nan}, "epochs must be a finite number, got nan"),
        ({"batch_size": math.inf}, "batch_size must be a finite number, got inf"),
    ],
)
def test_settings_that_cannot_train_are_refused(values, message):
    with pytest.raises(ValueError, match=f"LaserSettings: {message}"):
        LaserSettings(**values)


def test_counts_of_both_trainings_are_finite():
    with pytest.raises(
        ValueError, match="SASRecSettings: patience must be a finite number, got nan"
    ):
        SASRecSettings(patience=math.nan)


def test_the_least_that_is_allowed_is_accepted():
    settings = LaserSettings(
        epochs=1, batch_size=1, learning_rate=1e-9, weight_decay=0.0, validation_users=0
    )
    assert settings.validation_users == 0
