"""Keras classifiers that prove how far an input may move before the answer changes."""
