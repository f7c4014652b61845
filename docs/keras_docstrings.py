"""A Griffe extension for this package: docstrings in the manner of Keras become Markdown; lazy exports are found."""

import ast
import re

import griffe

# Sections whose lines are `name: description`; the others are text or an example.
_LISTS = ("Args", "Attributes", "Raises", "Weights")
_HEADING = re.compile(r"(Args|Attributes|Example|Input shape|Output shape|Raises|Reference|Returns|Weights|Yields):")
_ITEM = re.compile(r"(\*{0,2}[\w., *]+?): +(.*)", flags=re.DOTALL)


class KerasDocstrings(griffe.Extension):
    """Rewrites docstrings; what a package exports by a dict `_HOMES` becomes its members."""

    def on_object(self, *, obj, **kwargs):
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_module_members(self, *, mod, **kwargs):
        """Called when the members of a module are known."""
        if "_HOMES" in mod.members:
            homes = ast.literal_eval(str(mod.members["_HOMES"].value))
            for name, home in homes.items():
                full = home if home.startswith("clustr_keras") else f"{mod.path}.{home}"
                mod.set_member(name, griffe.Alias(name, f"{full}.{name}", parent=mod))
            mod.exports = list(homes)


def as_markdown(docstring):
    """A docstring with Keras' sections, as Markdown: a bold heading, then text, a list or a session in Python."""
    parts, title, body = [], None, []
    for line in [*docstring.split("\n"), "Returns:"]:
        if match := _HEADING.fullmatch(line):
            parts += _section(title, _dedented(body))
            title, body = match[1], []
        else:
            body.append(line)
    return "\n\n".join(parts)


def _section(title, body):
    if title is None:
        return [_with_fences(body)]
    return [f"**{title}**", _as_list(body) if title in _LISTS else _with_fences(body)]


def _dedented(lines):
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines).strip("\n")


def _as_list(body):
    """A list of `name: description`, whose descriptions may go on in lines that are indented."""
    items = [_ITEM.fullmatch(item) for item in re.split(r"\n(?=\S)", body)]
    if not all(items):
        return body
    return "\n".join(f"- `{item[1]}`: {' '.join(item[2].split())}" for item in items)


def _with_fences(body):
    """Text whose sessions in Python are fenced: Markdown would take `>>>` for a quotation."""
    paragraphs = re.split(r"\n\s*\n", body)
    return "\n\n".join(f"```pycon\n{text}\n```" if text.startswith(">>> ") else text for text in paragraphs)
