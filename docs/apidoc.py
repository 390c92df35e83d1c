"""The reference part of a page: for each exported function and class its signature, its docstring, a table of its
parameters and its source. nbdev's `show_doc` prints the same as one block of code; a table is easier to read."""
import ast
import inspect
import re
from dataclasses import is_dataclass
from html import escape

from fastcore.docments import docments, empty

# Parameters that mean the same wherever they appear. Said here once; a comment in the code says more where there is more.
WORDS = dict(
    items='a table with one row an example: `id`, `input`, `target` and more columns',
    preds='what a model said about items whose truth is known: a `Predictions`',
    evaluation='every number with its interval: an `Evaluation`',
    metric='the name of a metric; `list_metrics` shows all',
    confidence_level='the share of such intervals that hold the true value, in (0, 1)',
    n_resamples='how many bootstrap samples are drawn',
    seed='a whole number; the same one gives the same result',
    ax='axes to draw on; new ones where none are given',
    batch_size='how many items at a time',
    max_rows='at most so many rows; more are thinned out',
    n_folds='how many folds',
    args='the arguments of the command line, parsed',
    path='a file')

def public_names(source: str) -> list:
    "The public functions and classes that a cell defines."
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    return [o.name for o in ast.parse(source).body if isinstance(o, kinds) and not o.name.startswith('_')]

def documented(obj) -> dict:
    "fastcore's `docments`, which miss the comment on the return of a function without a return annotation."
    docs = docments(obj, full=True)
    if inspect.isfunction(obj) and not docs['return'].docment: docs['return'].docment = return_comment(obj)
    return docs

def return_comment(function) -> str|None:
    "What follows the `):` that closes a signature on a line of its own."
    node = ast.parse(inspect.cleandoc('\n' + inspect.getsource(function))).body[0]
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): return None
    lines = inspect.cleandoc('\n' + inspect.getsource(function)).splitlines()[node.lineno - 1:node.body[0].lineno - 1]
    return next((m[1].strip() for l in lines if (m := re.match(r'\s*\)\s*:\s*#(.*)', l))), None)

def public_members(cls: type) -> list:
    "Names and functions of the methods and properties that `cls` itself defines for others to use."
    out = []
    for name, member in vars(cls).items():
        if isinstance(member, property): member = member.fget
        if isinstance(member, (classmethod, staticmethod)): member = member.__func__
        if not name.startswith('_') and inspect.isfunction(member): out.append((name, member))
    return out

class ApiDocs:
    "Markdown for a symbol. `lookup` is nbdev's, from a name to the address of its documentation."
    def __init__(self, lookup): self.lookup = lookup

    def code(self, name: str) -> str:
        "A name as code, linked where it is ours."
        url = self.lookup.doc(name)
        text = f'<code>{escape(name)}</code>'
        return f'<a href="{escape(url)}">{text}</a>' if url else text

    def inline(self, text: str) -> str:
        "A comment as HTML: only code in backticks is marked up."
        parts = re.split(r'`([^`]+)`', text)
        return ''.join(self.code(p) if i % 2 else escape(p) for i, p in enumerate(parts))

    def type_of(self, annotation) -> str:
        "An annotation as a reader would write it."
        if annotation in (empty, None, type(None)): return ''
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        text = re.sub(r'\b(?:\w+\.)+(\w+)', r'\1', text).strip("'\"")
        return self.code(text) if text.isidentifier() else f'<code>{escape(text)}</code>'

    def table(self, obj) -> str:
        "Parameters and return, one a row; only the columns that say something."
        docs = {k: v for k, v in documented(obj).items() if k not in ('self', 'cls')}
        back = docs.pop('return', None)
        rows = [(f'<code>{"*" * stars(v.kind)}{k}</code>', self.type_of(v.anno),
                 '' if v.default is empty else f'<code>{escape(default(v.default))}</code>',
                 self.inline(v.docment or WORDS.get(k, ''))) for k, v in docs.items()]
        if back and not is_dataclass(obj) and not inspect.isclass(obj) and (back.docment or self.type_of(back.anno)):
            rows.append(('<em>returns</em>', self.type_of(back.anno), '', self.inline(back.docment or '')))
        if not rows: return ''
        keep = [i for i in range(4) if any(r[i] for r in rows)]
        head = ''.join(f'<th scope="col">{("Name", "Type", "Default", "What it is")[i]}</th>' for i in keep)
        cell = lambda i, text: f'<th scope="row">{text}</th>' if i == 0 else f'<td>{text}</td>'
        body = '\n'.join('<tr>' + ''.join(cell(i, r[i]) for i in keep) + '</tr>' for r in rows)
        return f'<div class="table-scroll"><table class="parameters">\n<thead data-pagefind-ignore><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'

    def markdown(self, obj, name: str, level: int = 3) -> str:
        "Heading, signature, docstring and table; for a class its members too. The anchor is the one nbdev links to."
        kind = 'class' if inspect.isclass(obj) else 'property' if isinstance(obj, property) else 'function'
        target = obj.fget if kind == 'property' else obj
        parts = [f'{"#" * level} {name} {{#{name.lower()} .api}}']
        url = self.lookup.code(name)
        if url and not url.endswith('#LNone'): parts.append(html(f'<p class="source-link"><a href="{escape(url)}">source</a></p>'))
        if kind != 'property': parts.append(f'```python\n{signature(target, name)}\n```')
        doc = inspect.getdoc(target) or ''
        if doc: parts.append(doc) # nbdev links the names in it, as in all prose
        if kind != 'property' and (table := self.table(target)): parts.append(html(table))
        if kind == 'class':
            parts += [self.markdown(vars(obj)[k] if isinstance(vars(obj)[k], property) else getattr(obj, k), f'{name}.{k}', level+1)
                      for k, _ in public_members(obj)]
        return '\n\n'.join(parts)

def html(text: str) -> str:
    "Raw HTML for pandoc, in a fence that nothing in it can close."
    fence = '`' * max(3, 1 + max((len(run) for run in re.findall('`+', text)), default=0))
    return f'{fence}{{=html}}\n{text}\n{fence}'

def stars(kind) -> int: return {inspect.Parameter.VAR_POSITIONAL: 1, inspect.Parameter.VAR_KEYWORD: 2}.get(kind, 0)

def default(value) -> str:
    "A default as it is written in code, as far as Python still knows."
    if callable(value) and hasattr(value, '__name__'): return value.__name__
    text = repr(value)
    return '…' if ' at 0x' in text or '<factory>' in text else text if len(text) < 60 else text[:57] + '…'

def signature(obj, name: str, width: int = 88) -> str:
    "Names and defaults; the types stand in the table below it."
    parts, last = [], None
    for p in inspect.signature(obj).parameters.values():
        if p.name in ('self', 'cls'): continue
        if p.kind == p.KEYWORD_ONLY and last not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL): parts.append('*')
        parts.append('*' * stars(p.kind) + p.name + ('' if p.default is p.empty else f'={default(p.default)}'))
        last = p.kind
    lines = [name + '(']
    for i, part in enumerate(parts):
        part += ', ' if i < len(parts) - 1 else ')'
        if len(lines[-1] + part.rstrip()) > width: lines.append('    ')
        lines[-1] += part
    return '\n'.join(l.rstrip() for l in lines) + ('' if parts else ')')
