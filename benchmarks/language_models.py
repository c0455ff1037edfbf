"""Language models for the beam: a Markdown table over the trained models of an experiment, on their test sessions.

    python benchmarks/language_models.py small/table1/baseline --data DIR --runs runs

For each language model and each seed, the weights are tuned on the sessions that validated the network. Prompts of
validation and test sessions are removed from the texts. The last column is the paired difference from the row with
the default's order and text.
"""

import argparse
import ast
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import emgscribe as es
from emgscribe.data.hdf5 import prompts_of
from emgscribe.data.splits import split_sessions
from emgscribe.decoding.language_model import made_up_text, train, without_prompts
from emgscribe.decoding.tuning import tune
from emgscribe.evaluation import evaluate_all
from emgscribe.experiments.recipes import EXPERIMENTS
from emgscribe.scoring import Counts, cer_difference, cer_interval, total

DEFAULT = "made-up prompts, across words, order 6"


def docstrings() -> str:
    """The docstrings of Python's standard library: English unlike the prompts, and present on every machine."""
    found, library = [], Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not {"site-packages", "dist-packages", "test", "tests", "idle_test"} & {*parts}:
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):  # deliberately invalid files that Python tests its tools with
                continue
            nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
            found += [text for node in nodes if (text := ast.get_docstring(node))]
    return "\n".join(found)


def language_models(excluded: frozenset[str]) -> Iterator[tuple[str, es.LanguageModel]]:
    """The language models to compare, by name. Large ones leave out n-grams that occur once, as the default does."""
    made_up = without_prompts(made_up_text(()), excluded)
    other = without_prompts(docstrings(), excluded)
    for order in (3, 4, 5, 6, 7, 8, 9):
        yield f"made-up prompts, across words, order {order}", train(made_up, order=order, across=True, min_count=2)
    yield "all n-grams of order 6", train(made_up, order=6, across=True)
    yield "all n-grams of order 8", train(made_up, order=8, across=True)
    yield "all n-grams of order 6 in a tenth of the prompts", train(made_up[: len(made_up) // 10], order=6, across=True)
    yield "made-up prompts, within words, order 6", train(made_up, order=6)
    yield "docstrings, across words, order 6", train(other, order=6, across=True, min_count=2)
    yield "docstrings, within words, order 6", train(other, order=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS, metavar="experiment")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    units, weights = defaultdict[str, list[list[Counts]]](list), defaultdict[str, list[str]](list)
    split = split_sessions(options.data, EXPERIMENTS[options.experiment].data)
    val, test = map(es.open_sessions, (split.val, split.test))
    known = list(language_models(prompts_of([*split.val, *split.test])))
    run = re.compile(re.escape(options.experiment.rpartition("/")[2]) + r"-\d+")
    for folder in sorted((options.runs / options.experiment).parent.glob("*/best")):
        if not run.fullmatch(folder.parent.name):  # another experiment, whose name begins in the same way
            continue
        model = es.load_model(folder)
        model.ancestry.refuse(val)
        emissions = [model.log_probs(session) for session in val]
        decoders: dict[str, es.Decoder] = {"greedy": es.GreedyDecoder()}
        for name, words in known:
            config = tune(emissions, [session.labels.tolist() for session in val], words).config
            decoders[name] = es.BeamDecoder(config, words)
            weights[name].append(f"{config.lm_weight:g}, {config.insertion_bonus:g}")
            print(f"{folder}: {name}: {weights[name][-1]}", flush=True)
        for name, found in evaluate_all(model, test, decoders).items():
            units[name].append(found.units)
    if not units:
        parser.error(f"no finished run of {options.experiment} in {options.runs}")
    pooled = {name: [total(unit) for unit in zip(*runs, strict=True)] for name, runs in units.items()}
    print("\n| language model | weight, bonus of each run | CER | minus the default's |\n|---|---|---|---|")
    for name, each in pooled.items():
        low, high = cer_interval(each)
        difference, least, most = cer_difference(each, pooled[DEFAULT])
        rate = f"{total(each).cer:.2f} ({low:.2f} to {high:.2f})"
        change = "" if name == DEFAULT else f"{difference:+.2f} ({least:+.2f} to {most:+.2f})"
        print(f"| {name} | {'; '.join(weights[name])} | {rate} | {change} |")


if __name__ == "__main__":
    main()
