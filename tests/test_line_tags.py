"""Algorithm boxes and code carry the same line tags, and the prose keeps to the book's terms."""

import json
import re

import pytest
from package_fixtures import ROOT

TAG = re.compile(r"\[([A-Z][A-Za-z]*(?:-[A-Za-z]+)*) (\d+)\]")
CODE_TAG = re.compile(r"#[^#\n]*?" + TAG.pattern)
BOX = re.compile(r"^(?P<fence>`{3,}|:{3,})\{prf:algorithm\}.*?^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)


def tags_of_code(sources):
    """{prefix: numbers} of the comments like ``# [MAML 5]``."""
    found = {}
    for source in sources:
        for prefix, number in CODE_TAG.findall(source):
            found.setdefault(prefix, set()).add(int(number))
    return found


def tags_of_boxes(texts):
    """{prefix: numbers} of the algorithm boxes in Markdown."""
    found = {}
    for text in texts:
        for box in BOX.finditer(text):
            for prefix, number in TAG.findall(box.group()):
                found.setdefault(prefix, set()).add(int(number))
    return found


def differences(code, boxes):
    """One sentence for every tag that stands on one side only."""
    lines = []
    for prefix in sorted(set(code) | set(boxes)):
        for number in sorted(code.get(prefix, set()) - boxes.get(prefix, set())):
            lines.append(f"[{prefix} {number}] stands in the code, but in no algorithm box")
        for number in sorted(boxes.get(prefix, set()) - code.get(prefix, set())):
            lines.append(f"[{prefix} {number}] stands in an algorithm box, but not in the code")
    return lines


def markdown_of(path):
    """The Markdown of a notebook or page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def package_sources():
    return [path.read_text(encoding="utf-8") for path in sorted((ROOT / "mlbook").rglob("*.py"))]


NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
PAGES = NOTEBOOKS + sorted((ROOT / "book").glob("*.md"))


def test_the_tags_of_boxes_and_code_are_the_same():
    code, boxes = tags_of_code(package_sources()), tags_of_boxes(map(markdown_of, NOTEBOOKS))
    assert {"MAML", "FOMAML", "HVP"} <= set(code)
    assert differences(code, boxes) == []


def test_the_tags_of_an_algorithm_count_from_one_without_a_gap():
    for prefix, numbers in tags_of_code(package_sources()).items():
        if prefix == "FOMAML":  # it is MAML with one other line, which carries the number of that line
            assert numbers == {5}
        else:
            assert numbers == set(range(1, max(numbers) + 1)), prefix


def test_a_tag_on_one_side_only_is_found():
    code = tags_of_code(
        ["x = 1  # [AB 1]\ny = 2  # [AB 2]\nz = 'see [CD 9]'\n", "w = 3  # why [FO-MAML 5]\n"]
    )
    assert code == {"AB": {1, 2}, "FO-MAML": {5}}
    page = """
Text that mentions [AB 3] is no box.

:::{prf:algorithm} Something
:label: alg-x
1. one `[AB 1]`
   2. two `[FO-MAML 5]`
:::

And [AB 4] behind it.
"""
    assert tags_of_boxes([page]) == {"AB": {1}, "FO-MAML": {5}}
    assert tags_of_boxes([page.replace(":::", "````")]) == {"AB": {1}, "FO-MAML": {5}}
    assert differences(code, tags_of_boxes([page])) == ["[AB 2] stands in the code, but in no algorithm box"]
    assert differences({}, {"AB": {1}}) == ["[AB 1] stands in an algorithm box, but not in the code"]


# -- terms ----------------------------------------------------------------------------------------------------------

# Names from other people's code and papers. The pages that translate them may use them.
TRANSLATORS = ("glossary",)
# A word that a page needs for another thing: chapter 19's fast weights are a memory that a layer writes as it reads.
IN_ANOTHER_SENSE = {"19_in_context": "fast weights"}
BANNED = {
    "fast weights": "adapted parameters",
    "task_num": "the number of tasks T, meta_batch_size",
    "k_spt": "the shot K, k_shot",
    "k_qry": "queries per class Q, n_query",
    "x_spt": "support_x",
    "x_qry": "query_x",
    "meta-training set": "the meta-train tasks",
    "meta-testing set": "the meta-test tasks",
    "meta-test set": "the meta-test tasks",
    "update_lr": "the inner rate, inner_lr",
    "spt set": "support set",
    "base learner": "the inner loop",
}


def banned_words(text):
    plain = re.sub(r"\s+", " ", text)
    return [
        f"{word!r}: we say {ours}"
        for word, ours in BANNED.items()
        if re.search(rf"(?i)\b{re.escape(word)}\b", plain)
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_prose_keeps_to_the_terms_of_the_book(path):
    if any(name in path.stem for name in TRANSLATORS):
        return
    text, other = markdown_of(path), IN_ANOTHER_SENSE.get(path.stem)
    if other is not None:
        text = re.sub(rf"(?i){other}?", "", text)
    assert banned_words(text) == []


def test_a_banned_term_is_found():
    assert banned_words("the Fast\nweights of a task") and banned_words("with `k_spt` = 1")
    assert not banned_words("weights that move fast; meta-training sets in")
