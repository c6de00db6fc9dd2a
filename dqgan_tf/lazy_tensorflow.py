"""TensorFlow, imported when one of its names is first used: `from dqgan_tf.lazy_tensorflow import tf`.

`import tensorflow` takes seconds. Code that only reads settings, such as the check of a compressor's spec, runs without
it: a typo in a flag is answered at once.
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

            # From now on the names are found in this module: `__getattr__` is called only for names that are missing.
            vars(self).update({key: value for key, value in vars(tensorflow).items() if not key.startswith("__")})
            return getattr(tensorflow, name)

    tf = _LazyTensorFlow("tensorflow")
