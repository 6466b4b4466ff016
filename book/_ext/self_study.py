"""Quizzes that answer, and the list of what there is to learn.

A chapter writes its quiz as two boxes, which can be read anywhere, in Jupyter and in Colab too:

    :::{admonition} Quiz                          :::{admonition} Answers
    :class: note                                  :class: dropdown

    **1.** The question?                          **1.** (b): why b is right. (a) Why a is not. (c) And why c is not.
    (a) this  (b) that  (c) neither               :::
    :::

On the site the options become buttons, each with the explanation that stands behind its letter; the second box stays for
readers without JavaScript and for print. A wrong option without an explanation is a warning, that is, an error of the build.

The chapters with their exercises and quiz questions are listed in a JSON script on the page `book/progress`;
book/_static/js/self_study.js does the rest in the reader's browser; guess.js covers a lab until its questions are guessed at.
"""

import json
import re

from chapter_numbers import chapter_number
from docutils import nodes
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
OPTION = re.compile(r"\(([a-e])\)\s*")
# Explanations begin a sentence (or a half-sentence behind a semicolon): "(a) ...", "(a) and (c) ...", "(b), (c): ..."
EXPLANATION = re.compile(r"(?:^|(?<=[.;!?:])\s+|\n)(?=\([a-e]\))")
LETTERS = re.compile(r"^\(([a-e])\)(?:,?\s+(?:and\s+)?\(([a-e])\))*")


def _pieces(children, pattern):
    """Cut a list of inline nodes where `pattern` matches inside a text node; the parts as lists of nodes."""
    parts = [[]]
    for child in children:
        if not isinstance(child, nodes.Text):
            parts[-1].append(child.deepcopy())
            continue
        text, last = child.astext(), 0
        for match in pattern.finditer(text):
            if match.start() > last:
                parts[-1].append(nodes.Text(text[last : match.start()]))
            parts.append([])
            last = match.start() if match.end() == match.start() else match.end()
        if text[last:]:
            parts[-1].append(nodes.Text(text[last:]))
    return parts


def _text(part):
    return "".join(node.astext() for node in part).strip()


def _numbered(paragraph):
    """(number, the inline nodes behind it) of a paragraph that begins with **1.**, or (None, [])."""
    children = [
        child for child in paragraph.children if child.astext()
    ]  # MyST puts an empty text before the number
    number = (
        children and isinstance(children[0], nodes.strong) and re.fullmatch(r"(\d+)\.", children[0].astext())
    )
    return (int(number.group(1)), children[1:]) if number else (None, [])


def split_question(paragraph):
    """(number, stem, {letter: inline nodes}) of a question's paragraph, or None when it is not one."""
    number, children = _numbered(paragraph)
    if number is None:
        return None
    letters = [
        m for child in children if isinstance(child, nodes.Text) for m in OPTION.findall(child.astext())
    ]
    stem, *options = _pieces(children, OPTION)
    return number, stem, dict(zip(letters, options, strict=True))


def split_answer(paragraph):
    """(number, right letter, whole answer, {letter: explanation as inline nodes}) of an answer's paragraph, or None."""
    number, children = _numbered(paragraph)
    right = re.match(r"\s*\(([a-e])\)", children[0].astext()) if children else None
    if not right:
        return None
    whole = [child.deepcopy() for child in children]
    whole[0] = nodes.Text(re.sub(r"^\s*\([a-e]\)[.,:]?\s*", "", whole[0].astext()))
    why = {}
    for part in _pieces(whole, EXPLANATION):
        match = LETTERS.match(_text(part))
        for letter in re.findall(r"[a-e]", match.group(0).replace("and", "")) if match else []:
            why[letter] = [node.deepcopy() for node in part]
    return number, right.group(1), whole, why


def _box(doctree, title):
    for box in doctree.findall(nodes.admonition):
        if isinstance(box[0], nodes.title) and box[0].astext() == title:
            yield box


def _reason_for(right, whole, why):
    """What is said of the right option: the words before the other letters, else its own sentence, else all of it."""
    first = _pieces(whole, EXPLANATION)[0]
    if not LETTERS.match(_text(first)) and len(_text(first)) > 3:
        return first
    return why.get(right) or [node.deepcopy() for node in whole]


def _question(number, stem, options, right, whole, why):
    item = nodes.container(classes=["quiz-question"])
    item += nodes.paragraph("", "", nodes.strong("", f"{number}."), *stem)
    choices = nodes.bullet_list(classes=["quiz-options"])
    for letter, option in options.items():
        choice = nodes.list_item(classes=["quiz-right" if letter == right else "quiz-wrong"])
        choice += nodes.paragraph("", "", nodes.Text(f"({letter}) "), *option, classes=["quiz-option"])
        reason = _reason_for(right, whole, why) if letter == right else why[letter]
        choice += nodes.container("", nodes.paragraph("", "", *reason), classes=["quiz-why"])
        choices += choice
    item += choices
    return item


def _make_quizzes(app, doctree):
    count = 0
    for quiz in list(_box(doctree, "Quiz")):
        following = quiz.parent.children[quiz.parent.index(quiz) + 1 :]
        answers = next((n for n in following if isinstance(n, nodes.admonition)), None)
        if answers is None or answers[0].astext() != "Answers":
            LOGGER.warning("a quiz without its box of answers", location=quiz)
            continue
        found = {a[0]: a[1:] for p in answers.findall(nodes.paragraph) if (a := split_answer(p))}
        for paragraph in list(quiz.findall(nodes.paragraph)):
            if not (question := split_question(paragraph)):
                continue
            number, stem, options = question
            right, whole, why = found.get(number, (None, [], {}))
            missing = [f"({o})" for o in options if o != right and o not in why]
            if right not in options or missing:
                LOGGER.warning(
                    "quiz question %s: %s",
                    number,
                    f"no explanation of {', '.join(missing)}"
                    if right in options
                    else "its answer is not an option",
                    location=quiz,
                )
                continue
            paragraph.replace_self(_question(number, stem, options, right, whole, why))
            count += 1
        if not any("quiz-question" in node["classes"] for node in quiz.findall(nodes.container)):
            LOGGER.warning("a quiz in which no question was found", location=quiz)
        quiz["classes"].append("quiz")
        answers["classes"].append("quiz-answers")
    return count


def _read(app, doctree):
    count = _make_quizzes(app, doctree)
    docname = app.env.docname
    if chapter_number(docname):
        exercises = [
            {"id": label, "title": (node[0].astext() if node.children else "").strip("() ")}
            for node in doctree.findall()
            if type(node).__name__ in {"exercise_node", "exercise_enumerable_node"}
            for label in node["ids"][:1]
        ]
        study = app.env.__dict__.setdefault("mlbook_study", {})
        study[docname] = {"exercises": exercises, "quiz": count}


def _merge(app, env, docnames, other):
    env.__dict__.setdefault("mlbook_study", {}).update(getattr(other, "mlbook_study", {}))


def _purge(app, env, docname):
    getattr(env, "mlbook_study", {}).pop(docname, None)


def chapters(env):
    """What there is to learn, in the order of the book: one dict per chapter."""
    study = getattr(env, "mlbook_study", {})
    return [
        {
            "page": docname.rsplit("/", 1)[-1],
            "number": chapter_number(docname),
            "title": env.titles[docname].astext(),
            **study[docname],
        }
        for docname in sorted(study, key=chapter_number)
    ]


def _add_list(app, pagename, templatename, context, doctree):
    if doctree is None:
        return
    app.add_js_file("js/self_study.js", loading_method="defer")
    app.add_js_file("js/guess.js", loading_method="defer")
    app.add_js_file("js/code_switch.js", loading_method="defer")
    if pagename == "book/progress":
        listing = json.dumps(chapters(app.env), ensure_ascii=False).replace("</", "<\\/")
        context["body"] += f'<script type="application/json" id="study-list">{listing}</script>'


def setup(app):
    app.connect(
        "doctree-read", _read, priority=450
    )  # chapter_numbers has taken the number off the title at 400
    app.connect("env-purge-doc", _purge)
    app.connect("env-merge-info", _merge)
    app.connect("html-page-context", _add_list)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
