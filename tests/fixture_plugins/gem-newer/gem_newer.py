"""A plugin for a hook API of the future."""

from gemcore import hookimpl

GEM_HOOK_API = 99


@hookimpl
def gem_routers():
    raise AssertionError("a plugin for another API must not be called")
