"""A machine without TensorFlow, as far as imports can tell. For processes that import this before anything else."""

import importlib.abc
import sys


class _Missing(importlib.abc.MetaPathFinder):
    """Not `None` in `sys.modules`: Keras takes that for a TensorFlow that is there."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, _Missing())
