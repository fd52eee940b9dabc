"""A plugin that raises at import, with a message of several lines."""

raise RuntimeError("the moon is in\n  the wrong phase")
