"""A plugin with a misspelt hook."""

from gemcore import hookimpl
from gemcore.records import RouterRecord


@hookimpl
def gem_router():
    yield RouterRecord(name="misspelt", summary="never seen", loader="gem_misspelt:Router")
