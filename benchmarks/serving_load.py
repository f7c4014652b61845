"""Mixed load on `clustr serve`: every answer checked against the live model, and the server's memory watched.

Run: python benchmarks/serving_load.py [--seconds S]. Writes results/serving_load.*.

32 callers, half over gRPC and half over REST, each with batches of 1 to 16 digits and all signatures in turn; one
request in ten is malformed, in one of ten ways, and has to be refused with its own code. The server runs in a process
of its own. It counts fewer requests than were sent: over REST the client asks for the metadata of a model first, and
one that is unknown is refused there. Exit status 1 if an answer was wrong or missing.
"""

import argparse
import asyncio
import io
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import httpx
import numpy as np
import PIL.Image
from results import machine, write_results

from clustr_keras.data import load_digits
from clustr_keras.serving import AsyncClient, ServingError, export_model
from clustr_keras.training import CertifiedRecipe, train_certified

CLUSTR = pathlib.Path(sys.executable).with_name("clustr")
CALLERS = 32
TOLERANCE = 1e-5


class Truth:
    """What the live model says of the test images, and whether an answer agrees."""

    def __init__(self, model, images):
        self.images = np.float32(np.round(images * 255) / 255)
        self.certificate = model.certify(self.images)
        self.embeddings = model.backbone.predict(self.images, verbose=0)
        self.files = [self._png(image) for image in self.images]

    @staticmethod
    def _png(image):
        file = io.BytesIO()
        PIL.Image.fromarray(np.uint8(np.round(image[..., 0] * 255))).save(file, "PNG")
        return file.getvalue()

    def fits(self, answer, rows):
        """Classes and radii to 1e-5; a class may change where there is less room than that."""
        radius = self.certificate.certified_radius[rows]
        same = answer.class_ids == self.certificate.class_ids[rows]
        near = self.certificate.radius[rows] <= TOLERANCE
        return answer.is_valid.all() and (same | near).all() and _close(answer.certified_radius, radius)


def _close(a, b):
    return np.abs(a - b).max() <= TOLERANCE


KINDS = ("predict", "certify", "certify_at", "certify_encoded", "embed", "invalid neighbor", "truncated file")


async def ask_well(client, truth, rows, random_):
    """One well-formed request; whether its answer is right."""
    kind = random_.choice(KINDS)
    images = truth.images[rows]
    if kind == "embed":
        return _close((await client.embed(images)).embeddings, truth.embeddings[rows])
    if kind == "certify_at":
        answer = await client.certify_at(images, 0.3)
        expected = answer.certified_radius >= np.float32(0.3)
        return truth.fits(answer, rows) and (answer.is_certified == expected).all()
    if kind == "truncated file":
        files = [truth.files[row] for row in rows]
        answer = await client.certify_encoded([*files, files[0][: len(files[0]) // 2]])
        is_right = answer.is_valid.tolist() == [True] * len(files) + [False] and answer.certified_radius[-1] == 0
        return is_right and _close(answer.certified_radius[:-1], truth.certificate.certified_radius[rows])
    if kind == "certify_encoded":
        return truth.fits(await client.certify_encoded([truth.files[row] for row in rows]), rows)
    if kind == "invalid neighbor":
        spoiled = np.concatenate([images, np.full_like(images[:1], random_.choice([np.nan, -1.0, 2.0]))])
        answer = await client.certify(spoiled)
        is_right = not answer.is_valid[-1] and answer.class_ids[-1] == -1 and answer.certified_radius[-1] == 0
        return is_right and _close(answer.certified_radius[:-1], truth.certificate.certified_radius[rows])
    return truth.fits(await getattr(client, kind)(images), rows)


MALFORMED = {
    # Over REST it is a 400, which is as well INVALID_ARGUMENT.
    "unknown signature": ("nope", lambda x: {"images": x}, {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}),
    "missing input": ("certify_at", lambda x: {"images": x}, {"INVALID_ARGUMENT"}),
    "wrong size": ("certify", lambda x: {"images": x[:, :4]}, {"INVALID_ARGUMENT"}),
    "wrong rank": ("certify", lambda x: {"images": x[0]}, {"INVALID_ARGUMENT"}),
    "strings": ("certify", lambda x: {"images": np.full(x.shape, "x", object)}, {"INVALID_ARGUMENT"}),
    "radius of another length": (
        "certify_at",
        lambda x: {"images": x, "radius": np.zeros(len(x) + 1, "float32")},
        {"INVALID_ARGUMENT"},
    ),
    "unknown model": (None, {"model": "other"}, {"NOT_FOUND"}),
    "unknown version": (None, {"version": 99}, {"NOT_FOUND"}),
    "unknown label": (None, {"label": "nope"}, {"INVALID_ARGUMENT"}),
}


async def _is_refused_deep_json(rest):
    async with httpx.AsyncClient(trust_env=False) as http:
        body = b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
        return (await http.post(f"{rest}/v1/models/clustr:predict", content=body)).status_code == 400


async def ask_badly(client, others, truth, rows, random_, rest):
    """One malformed request; whether it was refused with its own code."""
    name = random_.choice([*MALFORMED, "deep JSON"])
    if name == "deep JSON":
        return await _is_refused_deep_json(rest)
    signature, make, codes = MALFORMED[name]
    try:
        if signature is None:
            await others[name].predict(truth.images[rows])
        else:
            await client.call(signature, make(truth.images[rows]))
    except ServingError as error:
        return error.code in codes
    return False


async def caller(number, targets, truth, end, counts, wrong):
    """Asks until the end."""
    random_, target = random.Random(number), targets[number % 2]
    options = {name: make for name, (signature, make, _) in MALFORMED.items() if signature is None}
    async with AsyncClient(target, timeout=30.0) as client:
        others = {name: AsyncClient(target, **each) for name, each in options.items()}
        while time.monotonic() < end:
            rows = random_.sample(range(len(truth.images)), random_.randint(1, 16))
            is_bad = random_.random() < 0.1
            try:
                if is_bad:
                    is_right = await ask_badly(client, others, truth, rows, random_, targets[1])
                else:
                    is_right = await ask_well(client, truth, rows, random_)
            except ServingError as error:
                counts["dropped"] += 1
                wrong.append(str(error))
                continue
            counts["malformed" if is_bad else "well-formed"] += 1
            if not is_right:
                counts["wrong"] += 1
        for each in others.values():
            await each.close()


async def watch(pid, end, memory):
    """Resident memory of the server in MiB, with the time."""
    status = pathlib.Path(f"/proc/{pid}/status")
    while time.monotonic() < end:
        memory.append(int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024)
        await asyncio.sleep(0.25)


async def load(targets, pid, truth, seconds):
    counts, wrong, memory = Counter(), [], []
    end = time.monotonic() + seconds
    await asyncio.gather(
        watch(pid, end, memory), *(caller(n, targets, truth, end, counts, wrong) for n in range(CALLERS))
    )
    return counts, wrong, memory


def main(seconds):
    (x_train, y_train), (x_test, _) = load_digits()
    model = train_certified(x_train, y_train, class_names="0123456789", recipe=CertifiedRecipe(epochs=10))
    truth = Truth(model, x_test)
    with tempfile.TemporaryDirectory() as folder:
        path = export_model(model, folder, verify_on=truth.images[:64])
        command = [CLUSTR, "serve", path.parent, "--grpc-port", "0", "--rest-port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                grpc = re.fullmatch(r"gRPC +(\S+)\n", server.stdout.readline())[1]
                rest = re.fullmatch(r"REST +(http://[^/]+)/\S+\n", server.stdout.readline())[1]
                counts, wrong, memory = asyncio.run(load((grpc, rest), server.pid, truth, seconds))
                page = httpx.get(f"{rest}/monitoring/prometheus/metrics", trust_env=False).text
            finally:
                server.send_signal(signal.SIGTERM)
    for message in wrong[:10]:
        print(message)
    thirds = [float(np.mean(part)) for part in np.array_split(memory, 3)]
    counted = sum(float(line.split()[-1]) for line in page.splitlines() if "request_count{" in line)
    row = {
        "seconds": seconds,
        "callers": CALLERS,
        "well-formed": counts["well-formed"],
        "malformed": counts["malformed"],
        "wrong": counts["wrong"],
        "dropped": counts["dropped"],
        "counted by the server": int(counted),
        "memory by thirds, MiB": " / ".join(f"{part:.0f}" for part in thirds),
        "last against second third": f"{thirds[2] / thirds[1] - 1:+.1%}",
        **machine(),
    }
    write_results(__file__, [row])
    sys.exit(bool(counts["wrong"] or counts["dropped"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    main(parser.parse_args().seconds)
