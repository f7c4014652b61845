"""The commands of `clustr`, a module for each; only `clustr_keras.cli` imports them.

What is heavy is imported within the functions, so that help, completion and errors in options do not wait for it.
"""
