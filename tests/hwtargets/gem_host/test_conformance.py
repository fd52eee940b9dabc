"""The machine at hand passes what every target must."""

from gemcore.testing import TargetConformance


class TestHost(TargetConformance):
    plugin = "host"


class TestPlain(TargetConformance):
    plugin = "host"

    def options(self):
        import platform

        return {"instructions": "plain" if platform.machine() == "x86_64" else "neon"}
