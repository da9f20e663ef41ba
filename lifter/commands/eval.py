import json
import sys
from dataclasses import asdict

from lifter._errors import message
from lifter._io import whole
from lifter.data import open_data
from lifter.metrics.protocols import compare, evaluate_model
from lifter.progress import Progress
from lifter.skeleton import H36M

from ._model import model_of
from .options import reading_options


def run(args) -> int:
    try:
        evaluations = _evaluate(args)
        if args.json:
            _write(args.json, args.data, evaluations)
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        print(f"lifter eval: {message(error)}", file=sys.stderr)
        return 1
    if args.actions:
        print(*evaluations, sep="\n\n", end="\n\n")
    print(compare(evaluations))
    return 0


def _evaluate(args):
    data = open_data(args.data, **reading_options(args))
    data = data.select(*args.select) if args.select else data
    model = model_of(args).load()
    with Progress("sequences", len(data)) as progress:
        return evaluate_model(model, data, args.protocol, H36M if args.flip else None, args.batch, progress.step)


def _write(path, data, evaluations):
    finite = lambda figures: {name: value if value == value else None for name, value in figures.items()}
    told = []
    for each in evaluations:
        protocol = asdict(each.protocol) | {"skeleton": each.protocol.skeleton.name}
        actions = {action: finite(figures) for action, figures in each.per_action.items()}
        told.append(asdict(each) | {"protocol": protocol, "metrics": finite(each.metrics), "per_action": actions})
    with whole(path) as partly:
        partly.write_text(json.dumps({"data": data, "evaluations": told}, indent=1) + "\n")
