"""What pip is told about indexes, proxies and certificates, so that GEM can do as it does."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where pip looks when it is told nothing; it has no command that says so.
_ASK_FOR_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
# Later ones win, as in pip: the files, the command's own section, the environment.
_SECTIONS = ("global", "download", ":env:")


@attrs.frozen(kw_only=True)
class PipSettings:
    """How to reach packages.

    Attributes:
        indexes: URLs of simple indexes (PEP 503), in the order in which they are asked.
        links: pages, files and folders that list or hold files.
        certificates: path of a bundle of certificates, or None for the usual ones.
        client_certificate: path of a certificate to show, or None.
        proxy: URL, or None for what the environment says.
        trusted_hosts: hosts (or host:port) whose certificates are not checked.
    """

    indexes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    trusted_hosts: frozenset[str] = frozenset()

    def verification(self, url: str) -> bool | str:
        """What `requests` should check the certificate of `url` against."""
        parts = urlsplit(url)
        if {parts.hostname, parts.netloc.rpartition("@")[2]} & self.trusted_hosts:
            return False
        return self.certificates or True

    def proxies(self) -> dict[str, str] | None:
        """The proxies for `requests`, or None for what the environment says."""
        return {"http": self.proxy, "https": self.proxy} if self.proxy else None


def run_pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the pip of this Python and return what it printed.

    `-P` keeps a file called pip.py in the current folder from being run instead.
    """
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, errors="replace"
    )


def read_pip_settings() -> PipSettings:
    """Ask pip for its configuration: files and environment, merged as pip merges them.

    Without pip there is no index to ask.
    """
    answer = run_pip("config", "list")
    config = parse_config(answer.stdout) if answer.returncode == 0 else {}
    if "index-url" not in config:
        config |= default_index()
    return settings_from(config)


def default_index() -> dict[str, str]:
    """The option `index-url` as pip has it by default; empty where pip does not say."""
    command = [sys.executable, "-P", "-c", _ASK_FOR_INDEX]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    url = answer.stdout.strip()
    return {"index-url": url} if answer.returncode == 0 and url else {}


def parse_config(listing: str) -> dict[str, str]:
    """Read the output of `pip config list`; the section that pip prefers wins.

    >>> listing = ["global.proxy='http://a'", ":env:.proxy='http://b'", "install.user='true'"]
    >>> parse_config(chr(10).join(listing))
    {'proxy': 'http://b'}
    """
    found: dict[tuple[str, str], str] = {}
    for line in listing.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.rpartition(".")
        try:
            value = ast.literal_eval(quoted)
        except (SyntaxError, ValueError):
            continue
        found[section, key] = str(value)
    return {
        key: value
        for wanted in _SECTIONS
        for (section, key), value in found.items()
        if section == wanted
    }


def settings_from(config: Mapping[str, str]) -> PipSettings:
    """Make settings of pip's options by their long names."""
    no_index = config.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t")
    listed = (config.get("index-url", ""), *config.get("extra-index-url", "").split())
    indexes = tuple(filter(None, listed))
    return PipSettings(
        indexes=() if no_index else indexes,
        links=tuple(config.get("find-links", "").split()),
        certificates=config.get("cert"),
        client_certificate=config.get("client-cert"),
        proxy=config.get("proxy"),
        trusted_hosts=frozenset(config.get("trusted-host", "").split()),
    )
