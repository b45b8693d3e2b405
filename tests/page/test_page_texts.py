"""The page's texts: both languages complete, every key that the page uses there, nothing that no place uses."""

from __future__ import annotations

import json
import re

import pytest

from mountfs.web.status_page import LANGUAGES, PAGE

TEXTS = {language: json.loads((PAGE / f"{language}.json").read_text("utf-8")) for language in LANGUAGES}
SOURCES = "".join(path.read_text("utf-8") for path in sorted(PAGE.iterdir()) if path.suffix in (".js", ".html"))
BUILT = re.compile(
    r"^(why|error|state|pending|action|pull|push|changes|uploads\.all|servers|brake\.(title|deletions))\b"
)
"""Keys whose last part the code adds."""


def test_both_languages_have_the_same_keys_and_values_to_fill_in() -> None:
    english, portuguese = TEXTS["en"], TEXTS["pt-BR"]
    assert english.keys() == portuguese.keys()
    for key, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", portuguese[key])), key
        assert portuguese[key].strip(), key


def test_every_key_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"""\bt\("([\w.]+)\"""", SOURCES)) | set(
        re.findall(r'data-(?:text|label)="([\w.]+)"', SOURCES)
    )
    assert named <= TEXTS["en"].keys()
    assert len(named) > 40


def test_no_text_is_left_over() -> None:
    for key in TEXTS["en"]:
        assert BUILT.match(key) or f'"{key}"' in SOURCES, key


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="])
def test_the_page_never_makes_html_of_text(word: str) -> None:
    assert word not in SOURCES
