"""Finding a file's URL on indexes and in folders."""

from __future__ import annotations

import pytest

from gem_models.locate import file_path, find_file
from gem_models.pip_settings import PipSettings

NAME = "m-1-py3-none-any.whl"
SHA = "ab" * 32


def page(*links):
    return "".join(f'<a href="{link}">x</a>' for link in links).encode()


@pytest.mark.parametrize(
    ("link", "found"),
    [
        (f"../../f/{NAME}#sha256={SHA}", "/f/" + NAME),
        (f"/f/{NAME}", "/f/" + NAME),
        (f"{NAME}#sha256={SHA.upper()}", "/simple/m/" + NAME),
        (f"/f/{NAME}#md5=00", "/f/" + NAME),
        (f"/f/{NAME}?token=1&amp;x=2", f"/f/{NAME}?token=1&x=2"),
        (f"/f/{NAME.replace('-', '%2D')}", f"/f/{NAME.replace('-', '%2D')}"),
    ],
)
def test_links_of_a_page(server, link, found):
    server.files["/simple/m/"] = page("/f/m-0-py3-none-any.whl", f"/x/{NAME}#sha256=00", link)
    settings = PipSettings(indexes=(f"{server.url}/simple",))
    assert find_file("m", NAME, SHA, settings) == server.url + found


def test_a_base_moves_relative_links(server):
    server.files["/simple/m/"] = b'<base href="/elsewhere/">' + page(NAME)
    settings = PipSettings(indexes=(f"{server.url}/simple/",))
    assert find_file("m", NAME, SHA, settings) == f"{server.url}/elsewhere/{NAME}"


def test_the_next_index_is_asked(server):
    server.files["/two/m/"] = page(NAME)
    indexes = ("http://127.0.0.1:9/none", f"{server.url}/one", "not a url", f"{server.url}/two")
    found = find_file("m", NAME, SHA, PipSettings(indexes=indexes))
    assert found == f"{server.url}/two/m/{NAME}"


def test_nothing_is_found(server):
    server.files["/simple/m/"] = page("other.whl")
    settings = PipSettings(indexes=(f"{server.url}/simple",), links=("/nowhere", "\0"))
    assert find_file("m", NAME, SHA, settings) is None


@pytest.mark.parametrize("as_url", [True, False])
def test_a_folder_of_wheels(tmp_path, as_url):
    (tmp_path / NAME).touch()
    link = tmp_path.as_uri() if as_url else str(tmp_path)
    found = find_file("m", NAME, SHA, PipSettings(indexes=(), links=(link,)))
    assert file_path(found) == tmp_path / NAME


def test_an_index_in_files(tmp_path):
    folder = tmp_path / "simple" / "m"
    folder.mkdir(parents=True)
    (folder / "index.html").write_bytes(page(f"../../{NAME}"))
    settings = PipSettings(indexes=((tmp_path / "simple").as_uri(),))
    found = find_file("m", NAME, SHA, settings)
    assert file_path(found) == tmp_path / NAME
