"""Whether a plugin is fit to publish: what `gem plugins validate` looks at."""
