"""``python -m opd_toy figures``: the still figures and the sliders' pictures."""

from pathlib import Path


def add(commands):
    parser = commands.add_parser(
        "figures",
        help="draw the figures and photograph the sliders",
        description="Draw every still figure and photograph every slider, with a record of what "
        "made them.",
    )
    parser.add_argument(
        "--directory", default="figures", type=Path, help="where to put them (default: figures)"
    )
    parser.set_defaults(run=run)


def run(arguments):
    from opd_toy.pages.making import make

    for path in make(arguments.directory):
        print(path)
