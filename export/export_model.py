"""Exports a .keras file as the next version in a model directory of TensorFlow Serving, and prints where it is.

Run: python export/export_model.py runs/digits.keras runs/serving/clustr
"""

import argparse
import os
import pathlib
import sys

# TensorFlow's start-up notes are for its developers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main():
    """Loads, exports, prints the version folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a .keras file of a ClustrClassifier")
    parser.add_argument("directory", type=pathlib.Path, help="the folder that holds the version folders")
    parser.add_argument("--version", type=int, help="by default one more than the largest that is there")
    arguments = parser.parse_args()

    # Only now, so that --help and a mistyped option do not wait for TensorFlow.
    import keras

    from clustr_keras import ClustrClassifier
    from clustr_keras.serving import export_model

    model = keras.models.load_model(arguments.model)
    if not isinstance(model, ClustrClassifier):
        raise ValueError(f"{arguments.model} holds a {type(model).__name__}; a ClustrClassifier is needed.")
    print(export_model(model, arguments.directory, arguments.version))


if __name__ == "__main__":
    try:
        main()
    except (OSError, TypeError, ValueError) as error:
        # Keras's errors may go on for pages; the first line says what was wrong.
        reason = str(error).partition("\n")[0]
        sys.exit(f"export_model.py: {reason}")
