"""GEM's own benchmarks pass what all benchmarks must."""

from gem_suite.catalog import make_benchmark
from gemcore.testing import BenchmarkConformance


class TestOwnBenchmarks(BenchmarkConformance):
    plugin = "gem-47"

    def read(self, table):
        return make_benchmark(table)
