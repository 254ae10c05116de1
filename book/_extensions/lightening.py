"""A built site made light: style rules, icons and files that no page uses are left out."""

import logging
import re
import shutil

import tinycss2
from fontTools import subset

logging.getLogger(subset.__name__).setLevel(logging.WARNING)  # it tells each table that it cuts

WORD = re.compile(r"[A-Za-z_][\w-]*")
# Where a page can name a class or an id: in these attributes and anywhere in its own scripts.
NAMED = re.compile(r"""\b(?:class|id)=("[^"]*"|'[^']*'|[^\s>]+)""")
SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.DOTALL)
VARIABLE = re.compile(r"--[\w-]+")
# A custom property and its value, which is plain, quoted or in brackets.
QUOTED = """"[^"]*"|'[^']*'"""
INNER = rf"""(?:[^()"']|{QUOTED}|\([^()]*\))*"""
VALUE = rf"""(?:[^;{{}}"'()]|{QUOTED}|\({INNER}\))*"""
VARIABLE_DECLARED = re.compile(rf"(?<=[{{;\s])(--[\w-]+)\s*:{VALUE}(?:;|(?=\}}))")
# MathJax comes in every flavour; the book loads one, its fonts, and the extensions it may ask for.
MATHJAX_KEPT = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")
# What the theme would load and book/_templates/layout.html does not, and what no page loads.
UNLOADED = ("fontawesome.js*", "bootstrap.js*", "*.map", "*webpack-macros.html")
ICON_FONT = "vendor/fontawesome/webfonts"


def lighten(site):
    """Leave out of a built site the style rules, icons and files that none of its pages use."""
    static = site / "_static"
    drop_unused_files(static)
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    scripts = [
        path.read_text(encoding="utf-8")
        for path in [*static.glob("*.js"), *static.glob("scripts/*.js")]
    ]
    words = set()
    for text in scripts + [
        names for page in pages for names in [*NAMED.findall(page), *SCRIPT.findall(page)]
    ]:
        words.update(WORD.findall(text))
    sheets = {
        path: path.read_text(encoding="utf-8")
        for path in [*static.glob("*.css"), *static.glob("styles/*.css")]
    }
    lean = {path: keep_used_rules(text, words) for path, text in sheets.items()}
    lean = keep_used_variables(lean, "".join(pages + scripts))
    for path, text in lean.items():
        if ICON_FONT in text:
            text = keep_used_icons(text, static)
        if text != sheets[path]:
            path.write_text(text, encoding="utf-8")


def drop_unused_files(static):
    for pattern in UNLOADED:
        for path in static.rglob(pattern):
            path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)
    mathjax = static / "mathjax"
    for path in sorted(mathjax.rglob("*")):
        if path.is_file() and not path.relative_to(mathjax).as_posix().startswith(MATHJAX_KEPT):
            path.unlink()
    for path in sorted(mathjax.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def keep_used_rules(css, words):
    """Drop the selectors that ask for a class or id which occurs as a word nowhere in `words`."""
    rules = tinycss2.parse_stylesheet(css, skip_comments=False, skip_whitespace=True)
    return "".join(used(rule, words) for rule in rules)


def used(rule, words):
    """The text of one rule with its unused selectors gone; empty when none is left."""
    if rule.type == "qualified-rule":
        selectors = [part for part in split_at_commas(rule.prelude) if is_used(part, words)]
        text = ",".join(tinycss2.serialize(part).strip() for part in selectors)
        return text + "{" + tinycss2.serialize(rule.content).strip() + "}" if selectors else ""
    if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
        inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
        body = "".join(used(each, words) for each in inner)
        return f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{body}}}" if body else ""
    if rule.type == "comment":  # licences only
        return rule.serialize() if rule.value.startswith("!") else ""
    return rule.serialize()


def split_at_commas(tokens):
    parts = [[]]
    for token in tokens:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def is_used(selector, words):
    """Whether every class and id of a selector occurs; what stands in :not(…) need not."""
    asked, previous = [], None
    for token in selector:
        if token.type == "hash" or previous == ".":
            asked.append(token.value)
        previous = token
    return all(name in words for name in asked)


def keep_used_variables(sheets, elsewhere):
    """Drop the declarations of custom properties that no style sheet, page or script reads."""
    while True:
        read = set(VARIABLE.findall(elsewhere))
        for text in sheets.values():
            read.update(re.findall(r"var\(\s*(--[\w-]+)", text))
        after = {path: without_unread(text, read) for path, text in sheets.items()}
        if after == sheets:
            return after
        sheets = after


def without_unread(css, read):
    return VARIABLE_DECLARED.sub(lambda found: found[0] if found[1] in read else "", css)


def keep_used_icons(css, static):
    """Cut the icon fonts down to the glyphs that the rules left over still ask for."""
    glyphs = {int(code, 16) for code in re.findall(r'"\\([0-9a-f]{4})"', css)}
    glyphs |= {ord(sign) for sign in re.findall(r'"([\ue000-\uf8ff])"', css)}
    for font in sorted((static / ICON_FONT).glob("fa-*.ttf")):
        face = re.compile(r"src:url\([^)]*" + font.stem + r"\.woff2\)[^;}]*")
        if face.search(css):
            css = face.sub(f"src:url(../{ICON_FONT}/{font.name})", css)
            options = subset.Options(name_IDs=[0])  # whose it is
            cut = subset.load_font(str(font), options)
            keeper = subset.Subsetter(options)
            keeper.populate(unicodes=glyphs)
            keeper.subset(cut)
            subset.save_font(cut, str(font), options)
        font.with_suffix(".woff2").unlink(missing_ok=True)
    return css
