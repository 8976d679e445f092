"""The front door: `zoo list | show | data | fit | compare | calibrate`. Parsing only; `commands` does and prints.

Nothing heavy is imported here: `zoo --help` and `zoo list` load neither JAX nor rich. `prepare` is the one place that
sets JAX's switches, before anything imports JAX.
"""

import argparse
import importlib
import os
import shlex
import sys

COMMANDS = {
    "list": "diagnostics.commands:list_models",
    "show": "diagnostics.commands:show",
    "data": "diagnostics.data:data",
    "fit": "diagnostics.commands:fit",
    "compare": "diagnostics.commands:compare",
    "calibrate": "diagnostics.commands:calibrate",
    "predict": "diagnostics.predict:predict",
    "new": "diagnostics.authoring:new",
    "check": "diagnostics.authoring:check",
    "simulate": "diagnostics.authoring:simulate",
}
HELP = {
    "list": "the models there are",
    "show": "one model: story, priors as maths, graph, data, back ends; pictures of prior and graph in --out",
    "data": "the data sets there are; one of them, shown or exported",
    "fit": "one posterior by one back end",
    "compare": "every applicable back end on one posterior, compared with the best reference",
    "calibrate": "whether back ends sample the right law: joint tests, ratio tests, simulation-based calibration",
    "predict": "new observations under a saved result: densities, anomalies, components, missing entries",
    "new": "a commented model file to fill in, and its test",
    "check": "whether a model keeps the contract, identity by identity",
    "simulate": "data from a model at one draw of its prior",
}
OLDER_RUNTIME = "xla_cpu_use_thunk_runtime=false"


def main(argv: list[str] | None = None) -> int:
    """Runs one command. 0: what was asked ran; 1: a named back end was refused, or any failed; 2: wrong usage."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = parse(argv)
    except SystemExit as stop:  # --help, --version, or wrong usage already explained
        return int(stop.code or 0)
    module, function = COMMANDS[args.command].split(":")
    try:
        return getattr(importlib.import_module(module), function)(args)
    except ValueError as error:
        print(f"zoo {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"zoo {args.command}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a file that another program holds
        print(f"zoo {args.command}: {error}", file=sys.stderr)
        return 1


def prepare(precision: str):
    """Sets the precision, and keeps off what was measured to return wrong numbers on the CPU with jax 0.5.3.

    That is the persistent compilation cache (programs loaded from it skip loops), and XLA's older CPU runtime: in it
    one of four NUTS chains on `coffee_full` never moved and another crept. The user's own flag gets a warning.
    """
    if OLDER_RUNTIME in os.environ.get("XLA_FLAGS", ""):
        print(f"zoo: XLA_FLAGS has {OLDER_RUNTIME}, which was measured to sample wrongly; unset it", file=sys.stderr)
    os.environ["JAX_ENABLE_X64"] = str(int(precision == "float64"))
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    if "jax" in sys.modules:  # called from a program that has imported JAX: the environment is read no more
        sys.modules["jax"].config.update("jax_enable_x64", precision == "float64")


def hush():
    """Libraries' notices that no user of this program can act on: of their own future, of float32 as asked for."""
    import warnings

    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filterwarnings("ignore", message="Explicitly requested dtype .*float64", category=UserWarning)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence."""

    def error(self, message):
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line as a namespace; SystemExit after an explanation when it makes no sense."""
    from zoo import nearest

    parser = build()
    if not argv:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        parser.error(f"no command {argv[0]!r}: {nearest(argv[0], COMMANDS)}")
    args, left = parser.parse_known_args(argv)
    args.line = f"zoo {shlex.join(argv)}"
    if left:
        command = build_command(args.command)
        word = next((word for word in left if word.startswith("-")), left[0])
        if not word.startswith("-"):
            command.error(f"{word!r} is one word too many")
        known = [option for action in command._actions for option in action.option_strings]
        command.error(f"no option {word!r}: {nearest(word.split('=')[0], known)}")
    return args


def build() -> Parser:
    import zoo

    parser = Parser(prog="zoo", description="Mixture models: declared once, inferred in many ways, compared.")
    parser.add_argument("--version", action="version", version=f"mixture-zoo {zoo.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in HELP.items():
        build_command(name, commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    return parser


def build_command(name: str, parser: Parser | None = None) -> Parser:
    """The options of one command."""
    parser = parser or Parser(prog=f"zoo {name}", add_help=False)
    add = parser.add_argument
    add("--json", action="store_true", help="one JSON document on standard output, nothing else")
    if name == "list":
        return parser
    if name == "data":
        add("name", metavar="NAME", nargs="?", help="a name from `zoo data`")
        add("--column", metavar="NAME[,NAME]", help="the columns to take; default: the features")
        add("--out", metavar="FILE.csv", help="export it there")
        return parser
    if name == "new":
        add("name", metavar="NAME", nargs="?", help="of the model; a Python name")
        add("--out", metavar="FOLDER", help="where to write NAME.py and test_NAME.py; default: here")
        return parser
    if name == "predict":
        add("result", metavar="RESULT.nc", help="a file that `zoo fit --out` or `zoo compare --out` left")
        add("--data", metavar="FILE", required=True, help="new observations: a CSV, Parquet or npz file")
        add("--column", metavar="NAME[,NAME]", help="the columns of FILE to take; default: as of the run's own data")
        add("--missing", choices=("marginalize",), help="integrate missing entries out, and say what they may be")
        add("--model", metavar="FILE.py:NAME", help="the model of the run, where it is not one of `zoo list`")
        add("--set", metavar="NAME=VALUE", action="append", default=[], help="a constant of --model, in TOML syntax")
        add(
            "--draws", metavar="N", type=whole(1, 10**6), help="observations to simulate, for draws.csv in --out FOLDER"
        )
        add("--seed", metavar="N", type=whole(0, 2**63 - 1), default=0, help="of simulated observations; default: 0")
        add("--out", metavar="FOLDER|FILE.csv", help="where to leave the predictions")
        return parser
    add("name", metavar="MODEL", nargs="?", help="a name from `zoo list`, or FILE.py:NAME as of --model")
    add("--model", metavar="FILE.py:NAME", help="in place of MODEL: a Mixture, or a function that returns one")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a constant of the model, in TOML syntax")
    if name == "show":
        add(
            "--out",
            metavar="FOLDER",
            help="where to leave prior.png, what the prior expects beside the data, and graph.png",
        )
        return parser
    if name == "check":
        return parser
    if name == "simulate":
        add("-n", metavar="N", type=whole(1, 10**7), default=100, help="observations; default: 100")
        add("--seed", metavar="N", type=whole(0, 2**63 - 1), default=0, help="default: 0")
        add("--out", metavar="FILE.csv", help="where to write them; default: standard output")
        return parser
    if name == "calibrate":
        add("--backends", metavar="NAME[,NAME]", help="default: every one that serves the model and returns draws")
        add("--seed", metavar="N", type=whole(0, 2**63 - 1), default=0, help="default: 0")
        add("--datasets", metavar="N", type=whole(20), help="data sets of the calibration; default: 200, 1000 for some")
        add("--quick", action="store_true", help="a tenth of the replicates, and 40 data sets")
        add("--out", metavar="FILE.md", help="where to leave the table; FILE.json beside it has every figure")
        add("--resume", action="store_true", help="keep the rows of FILE.json, measured by the code as it was then")
        add(
            "--processes",
            metavar="N",
            type=whole(1, 256),
            default=1,
            help="that measure the whole table side by side; default: 1",
        )
        add("--quiet", action="store_true", help="no progress")
        return parser
    add("--data", metavar="FILE", help="a CSV, Parquet or npz file in place of the model's own data")
    add("--column", metavar="NAME[,NAME]", help="the columns of FILE to take")
    add("--frequency", metavar="NAME", help="the column of FILE that says how often each row was observed")
    add("--units", metavar="TEXT", help="the units of FILE, for the record and the axes")
    add(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        help="give each column of FILE the mean 0 and the standard deviation 1; default: take out what the model's own "
        "data had taken out, where that is standardised",
    )
    if name == "fit":
        add("--backend", metavar="NAME", help="default: gibbs, or that of the run gone on with")
        add("--resume", metavar="RUN.nc", help="go on with a saved run of chains: interrupted, or to more --draws")
    else:
        add("--backends", metavar="NAME[,NAME]", help="default: every one that applies")
    add("--option", metavar="[BACKEND.]NAME=VALUE", action="append", default=[], help="a back end's setting (TOML)")
    add("--seed", metavar="N", type=whole(0, 2**63 - 1), help="default: 0, or that of the run gone on with")
    add("--chains", metavar="N", type=whole(1, 10_000), help="number of chains")
    add("--warmup", metavar="N", type=whole(0, 10**8), help="warmup steps per chain")
    add("--draws", metavar="N", type=whole(1, 10**8), help="draws per chain")
    add("--out", metavar="FOLDER", help="where to leave the results")
    add("--precision", choices=("float32", "float64"), default="float64", help="default: float64")
    add("--quiet", action="store_true", help="no progress and no tables, only the verdict")
    return parser


def whole(least: int, most: float = float("inf")):
    """An argparse type: a whole number from `least` to `most`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            upper = f"from {least} to {most}" if most < float("inf") else f"{least} or more"
            raise argparse.ArgumentTypeError(f"should be a whole number, {upper}, not {text!r}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
