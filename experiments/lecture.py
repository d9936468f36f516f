"""All claims of the lecture, each measured, and one self-contained page of them: text, verdicts and pictures."""

import argparse
import base64
import html
import importlib
import io
import time

from matplotlib.figure import Figure

import glmjax as gj

from .__main__ import CLAIMS
from .claims import Finding, heading, investigate, save, show
from .claims import add_arguments as add_claim_arguments
from .report import environment, open_results, progress, say

STYLE = """
body { font: 17px/1.55 Georgia, serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { font-weight: normal; line-height: 1.2; } h2 { margin-top: 3.5rem; }
img { width: 100%; margin: .8rem 0; } code { font-size: .85em; background: #f4f4f4; padding: .1em .3em; }
table { border-collapse: collapse; width: 100%; font: 14px/1.4 system-ui, sans-serif; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-top: 1px solid #ddd; }
th { border: 0; color: #777; font-weight: normal; } .holds { color: #18794e; } .fails { color: #c00; font-weight: bold; }
td:nth-child(n+2) { white-space: nowrap; } nav ol { columns: 2; padding-left: 1.2rem; } footer { margin-top: 4rem; color: #777; font-size: .85em; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the whole lecture."""
    add_claim_arguments(parser, "lecture")


def picture(figure: Figure, title: str) -> str:
    """A figure as an image that the page holds itself."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def section(name: str, title: str, paragraphs: list[str], finding: Finding) -> str:
    """One experiment: what it is about, what was claimed and measured, and its picture."""
    rows = "".join(
        f"<tr><td>{html.escape(c.claim)}</td><td>{html.escape(c.claimed)}</td><td>{html.escape(c.measured)}</td>"
        f'<td class="{"holds" if c.holds else "fails"}">{"holds" if c.holds else "FAILS"}</td></tr>'
        for c in finding.claims
    )
    text = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    return (
        f'<h2 id="{name}">{html.escape(title)}</h2>{text}{picture(finding.figure, title)}'
        f"<table><tr><th>claim</th><th>claimed</th><th>measured</th><th></th></tr>{rows}</table>"
        f"<p>To see it run, and change it: <code>python -m experiments {name}</code></p>"
    )


def page(sections: list[str], titles: dict[str, str], quick: bool) -> str:
    """The whole page; nothing in it points outside."""
    contents = "".join(f'<li><a href="#{name}">{html.escape(title)}</a></li>' for name, title in titles.items())
    where = environment()
    measured = f"{len(where['devices'])} {where['devices'][0].split(':')[0]} device(s), jax {where['jax']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A lecture that checks itself</title><style>{STYLE}</style></head><body>"
        "<h1>Generalized linear models and multilayer perceptrons: a lecture that checks itself</h1>"
        "<p>Linear, logistic, softmax and Poisson regression are one model with four heads: a linear predictor "
        "&eta; = x w + b, a mean y(x) that each head makes of it, and one gradient, (y(x) &minus; t) x. A multilayer "
        "perceptron is the same model on features that it learns. Below, every claim is computed again each time this "
        "page is made.</p>"
        f"<nav><ol>{contents}</ol></nav>{''.join(sections)}"
        f"<footer>glmjax {where['glmjax']}, {measured}{', quick sizes' if quick else ''}.</footer></body></html>"
    )


def run(options: argparse.Namespace) -> int:
    """Run all, show progress and verdicts, write the page; 1 if any claim does not hold."""
    folder = open_results(options.results)
    sections, titles, failed = [], {}, []
    with progress() as shown:
        task = shown.add_task("claims of the lecture", total=len(CLAIMS), seen="")
        for name in CLAIMS:
            shown.update(task, seen=name)
            start = time.perf_counter()
            module = importlib.import_module(f"experiments.{name.replace('-', '_')}")
            finding = investigate(module, options.quick)
            seconds = time.perf_counter() - start
            title, paragraphs = heading(module)
            titles[name] = title
            sections.append(section(name, title, paragraphs, finding))
            save(folder, name, finding, options.quick)
            good = sum(claim.holds for claim in finding.claims)
            say(f"{name:<31} {good} of {len(finding.claims)} claims hold, {seconds:.1f} s")
            if not finding.holds:
                failed.append(name)
                show(finding)
            shown.advance(task)
    text = page(sections, titles, options.quick)
    gj.files.write_atomic(folder / "lecture.html", lambda file: file.write(text.encode()))
    say(f"NOT ALL CLAIMS HOLD: {', '.join(failed)}" if failed else "all claims hold")
    say(f"the page is {folder / 'lecture.html'}")
    return 1 if failed else 0
