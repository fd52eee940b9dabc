"""A plugin that yields a good record and then a record of another kind."""

from gemcore import hookimpl
from gemcore.records import MetricRecord, RouterRecord


@hookimpl
def gem_routers():
    yield RouterRecord(name="good", summary="lost all the same", loader="gem_wrong_record:Router")
    yield MetricRecord(name="wrong", summary="no router", loader="gem_wrong_record:Metric")
