"""Asks a served model for the classes of some digits, with their proofs: by our client, then by plain HTTP.

Start a server:
    clustr train --output runs/digits.keras
    clustr export --model runs/digits.keras --output runs/serving/clustr
    clustr serve runs/serving/clustr --grpc-port 8500 --rest-port 8501
Run: python examples/query_endpoint.py [--target 127.0.0.1:8500] [--rest http://127.0.0.1:8501]
TensorFlow Serving answers the same.

It prints for each digit the class, the runner-up and the radius within which the class is proved not to change, and
whether the radius suffices for --radius.
"""

import argparse

import httpx

from clustr_keras.data import load_digits
from clustr_keras.serving import Client

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--target", default="127.0.0.1:8500", help="host:port for gRPC, http://host:port for REST")
parser.add_argument("--rest", default="http://127.0.0.1:8501", help="where plain HTTP goes")
parser.add_argument("--name", default="clustr", help="its name on the server")
parser.add_argument("--examples", type=int, default=3)
parser.add_argument("--radius", type=float, default=0.3)
asked = parser.parse_args()

_, (images, labels) = load_digits()
images, labels = images[: asked.examples], labels[: asked.examples]

with Client(asked.target, model=asked.name) as client:
    answer = client.certify(images)
    check = client.certify_at(images, asked.radius)
print(f"{asked.target} says:")
for row, label in enumerate(labels):
    print(
        f"  a {label} is a {answer.class_names[row]} ({answer.probabilities[row].max():.1%}), "
        f"then a {answer.runner_up_class_ids[row]}; no change of l_2 norm below {answer.certified_radius[row]:.6f} "
        f"alters that, proved by a Lipschitz bound of {answer.lipschitz_bound[row]:.6f}; "
        f"{'enough' if check.is_certified[row] else 'not enough'} for {asked.radius}"
    )

# The same without a package of ours. Any language that speaks HTTP and JSON can do it.
response = httpx.post(
    f"{asked.rest}/v1/models/{asked.name}:predict",
    json={"signature_name": "certify", "instances": images.tolist()},
    timeout=60.0,
)
response.raise_for_status()
print(f"{asked.rest} says:")
for label, proof in zip(labels, response.json()["predictions"], strict=True):
    print(f"  a {label} is a {proof['class_names']} within {proof['certified_radius']:.6f}")
