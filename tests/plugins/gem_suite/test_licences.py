from __future__ import annotations

import pytest

from gem_suite.licences import is_permissive, judged


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "MIT (repository file); HF card says Apache-2.0",
        "Apache-2.0 (FastChat)",
        "BSD-3-Clause",
        "AFL 3.0",
        "CC BY 4.0",
        "CC-BY-4.0",
        "CC BY (data), Apache-2.0 (code)",
        "CC0 1.0",
        "public domain (US government work, NCBI)",
        "free for any purpose with acknowledgement of Google LLC (PAWS terms)",
    ],
)
def test_permissive_licences(licence):
    assert is_permissive(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "CC BY-NC 4.0",
        "CC-BY-NC-4.0",
        "CC BY-NC-SA 3.0",
        "CC BY-SA 4.0",
        "CC BY-ND 4.0; other parts CC BY 4.0",
        "CC BY-NC-SA 4.0 (data); Apache-2.0 file in the repository",
        "CC BY 4.0 per one page; non-commercial research per another",
        "none stated (research release)",
        "none stated in the repository (research use)",
        "mixed by source: Apache, MIT",
        "non-commercial use",
        "GPL-3.0",
        "see the paper",
    ],
)
def test_licences_that_do_not_permit_it(licence):
    assert not is_permissive(licence)


def test_parts_of_a_benchmark():
    permitted, rule = judged("coqa", "mixed by source: CC BY-SA 4.0, Apache (CNN)")
    assert permitted
    assert rule.takes("cnn")
    assert not rule.takes("race")
    permitted, rule = judged("legalbench", "CC BY 4.0 (task pages)")
    assert permitted
    assert rule.takes("hearsay")
    assert not rule.takes("abercrombie")
    permitted, rule = judged("anything", "none stated")
    assert not permitted
    assert rule.takes("whatever")
