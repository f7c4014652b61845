"""Asks a server for the classes of images, each with the radius within which it is proved not to change.

Run: python export/query_endpoint.py                            # the first bundled digits, over gRPC
     python export/query_endpoint.py a.png b.png                # files, which the server decodes
     python export/query_endpoint.py --target http://127.0.0.1:8501    # over REST
"""

import argparse
import os
import pathlib
import sys

# TensorFlow's start-up notes are for its developers.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from clustr_keras.serving import Client, ServingError


def main():
    """Asks, and prints a line for each image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=pathlib.Path, help="PNG or JPEG files of the model's size")
    parser.add_argument("--target", default="127.0.0.1:8500", help="host:port for gRPC, http://host:port for REST")
    parser.add_argument("--name", default="clustr", help="the model's name")
    parser.add_argument("--version", type=int, help="by default the newest that is loaded")
    parser.add_argument("--label", help="of a version, in place of its number")
    parser.add_argument("--examples", type=int, default=8, help="how many digits, where no files are given")
    arguments = parser.parse_args()
    if arguments.examples < 1:
        parser.error(f"--examples must be at least 1; got {arguments.examples}.")

    if arguments.images:
        names = [str(path) for path in arguments.images]
        signature, inputs = "certify_encoded", {"image_bytes": [path.read_bytes() for path in arguments.images]}
    else:
        from clustr_keras.data import load_digits

        _, (digits, labels) = load_digits()
        names = [f"digit {row}, a {label}" for row, label in enumerate(labels[: arguments.examples])]
        signature, inputs = "certify", {"images": digits[: arguments.examples]}

    with Client(arguments.target, arguments.name, arguments.version, label=arguments.label) as client:
        answer = client.call(signature, inputs)
    rows = zip(names, answer["class_names"], answer["certified_radius"], answer["is_valid"], strict=True)
    for name, class_name, radius, is_valid in rows:
        # The server judges each image by itself: a broken one leaves the others alone.
        proof = f"class {class_name}, certified radius {radius:.4f}"
        print(f"{name}: {proof if is_valid else 'not a PNG or JPEG of the size that the model takes'}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ServingError) as error:
        sys.exit(f"query_endpoint.py: {error}")
