"""A plugin that claims the name of a router of GEM's own."""

from gemcore import hookimpl
from gemcore.records import Option, RouterRecord


@hookimpl
def gem_routers():
    yield RouterRecord(
        name="none",
        summary="not the real one",
        loader="gem_claim_none:Router",
        options=(Option(name="width", type=int, default=2, minimum=1, maximum=8, help="breadth"),),
        capabilities={"experts"},
        reference_url="https://example.org/gem_claim_none",
    )


class Router:
    def __init__(self, width):
        self.width = width

    def prior(self, prompt):
        return None

    def layer_module(self, layer):
        return None

    def fit(self, examples):
        pass
