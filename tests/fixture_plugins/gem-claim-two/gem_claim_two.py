"""A plugin that claims a name that gem-claim-one claims too."""

import click

from gemcore import hookimpl
from gemcore.records import Option, RouterRecord


@hookimpl
def gem_routers():
    yield RouterRecord(
        name="shared",
        summary="the second of two",
        loader="gem_claim_two:Router",
        options=(Option(name="width", type=int, default=2, minimum=1, maximum=8, help="breadth"),),
        capabilities={"experts"},
        reference_url="https://example.org/gem_claim_two",
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


@click.command()
def twice():
    """A command that two distributions offer."""
