"""What can be certified: folders of images, TFRecords, TensorFlow Datasets, the bundled digits.

Each kind of input is a small picklable object with

- `facts`, a dict that tells one input from another, for the manifest;
- `pieces(size)`, `(count, place)` of runs of at most `size` images, the same ones in every run;
- `read(place, count)`, the `Examples` of one of them, in a worker.
"""

from clustr_keras.bulk.inputs.find import find_input
from clustr_keras.bulk.inputs.sample import Sample

__all__ = ["Sample", "find_input"]
