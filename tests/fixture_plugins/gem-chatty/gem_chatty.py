"""A plugin that prints when it is imported and when it is called."""

from gemcore import hookimpl
from gemcore.records import MetricRecord

print("hello from the import")


@hookimpl
def gem_metrics():
    print("hello from the hook")
    yield MetricRecord(name="chatty", summary="talks", loader="gem_chatty:Missing")
