"""A plugin that takes two seconds to import."""

import time

from gemcore import hookimpl
from gemcore.records import QuantizerRecord

time.sleep(2)


@hookimpl
def gem_quantizers():
    yield QuantizerRecord(name="slow", summary="arrives late", loader="gem_slow:Slow")
