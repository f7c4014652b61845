"""A trial of KerasTuner without its training."""

METRICS = {"val_accuracy": 0.9, "val_certified_accuracy": 0.5, "val_clean_and_certified_accuracy": 0.7}


def end(oracle, trial):
    """Ends a trial as a tuner does whose training went well."""
    oracle.update_trial(trial.trial_id, METRICS)
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
