"""TensorFlow, imported when one of its names is first used: `from dqgan_tf.lazy_tensorflow import tf`.

`import tensorflow` takes seconds. Code that only reads settings, e.g. the check of a compressor's spec, does not need
TensorFlow, so that a wrong flag is refused immediately.
"""

import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf
else:

    class _LazyTensorFlow(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):  # Python itself asks for `__path__` and the like
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            import tensorflow

            # Later accesses find the names in this module; Python calls `__getattr__` only for missing names.
            vars(self).update({key: value for key, value in vars(tensorflow).items() if not key.startswith("__")})
            return getattr(tensorflow, name)

    tf = _LazyTensorFlow("tensorflow")
