"""A new plugin from nothing: what `gem plugins new` writes."""
