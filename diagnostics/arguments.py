"""What the options of a command mean: the model, its constants, the settings, the data, and where to write.

Bad input raises ValueError with one sentence. Everything that imports JAX is imported inside.
"""

import pathlib


def entry_of(args) -> dict | None:
    """The catalogue's entry of MODEL; None where it, or --model, is FILE.py:NAME, which becomes `args.model`."""
    from zoo import catalogue, nearest

    if args.model is None and args.name is not None and ".py:" in args.name:
        args.model, args.name = args.name, None
    if args.model is not None:
        if args.name is not None:
            raise ValueError(f"MODEL {args.name!r} and --model are both given; give one of them")
        return None
    if args.name is None:
        raise ValueError(f"no MODEL is given: {nearest('', catalogue())}")
    if args.name not in catalogue():
        raise ValueError(f"no model named {args.name!r}: {nearest(args.name, catalogue())}")
    return catalogue()[args.name]


def chosen_model(args, constants=None):
    """The Mixture that MODEL or --model, and --set, name."""
    constants = constants_of(args) if constants is None else constants
    entry = entry_of(args)
    if entry is not None:
        import zoo

        return zoo.MODELS.builder(args.name)(**constants)
    return loaded(args.model, constants)


def loaded(path, constants):
    """The Mixture that --model names; ValueError with one sentence for whatever goes wrong in it."""
    from zoo.load import load

    try:
        return load(path, **constants)
    except ValueError:
        raise
    except Exception as error:  # a stranger's builder may do anything
        raise ValueError(f"{path} failed: {type(error).__name__}: {error}") from None


def constants_of(args) -> dict:
    """`--set scale=25.0` -> {"scale": 25.0}."""
    return dict(assignment(text, "--set") for text in args.set)


def settings_of(args) -> dict:
    """`--option nuts.permute=false` -> {"nuts": {"permute": False}}; without a prefix, for all."""
    import inference
    from zoo import nearest

    settings: dict = {}
    for text in args.option:
        name, value = assignment(text, "--option")
        prefix, dot, option = name.rpartition(".")
        if dot and prefix not in inference.TABLE:
            raise ValueError(f"--option {text}: no back end named {prefix!r}: {nearest(prefix, inference.TABLE)}")
        if not dot and option in inference.TABLE:
            raise ValueError(f"--option {text}: {option} is a back end; name its setting, {option}.NAME=VALUE")
        (settings.setdefault(prefix, {}) if dot else settings)[option] = value
    return settings


def assignment(text, flag):
    """NAME=VALUE with VALUE in TOML syntax."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{flag} takes NAME=VALUE, got {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise ValueError(f'{flag} {text}: {value!r} is not a TOML value (2.5, [1, 2], true or "text")') from None


def own_data(model):
    """The model's own data set; ValueError where it has none."""
    if model.data is None:
        raise ValueError(f"{model.name} has no data of its own; give --data FILE")
    return model.data


def check_no_data_options(args):
    """ValueError for an option that says how to read --data, which is not given."""
    says = {
        "column": "chooses columns",
        "frequency": "names a column",
        "units": "are those",
        "standardize": "changes columns",
    }
    for flag, does in says.items():
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag} {does} of --data, which is not given")


def read_data(args, num_features, **options):
    """The data set of --data, read as --column, --frequency, --units and --standardize say."""
    from zoo import dataset

    columns = tuple(name.strip() for name in args.column.split(",")) if args.column else ()
    options |= {"frequency": args.frequency, "units": args.units or "", "standardize": args.standardize}
    return dataset.read(args.data, columns, num_features, **options)


def read_data_for(args, model):
    """The data of --data in the shape that `model` observes: an array, or a dict by its keys."""
    import numpy as np

    shapes = model.data_shapes
    if set(shapes) == {"x"}:
        names = tuple(model.data.columns) if model.data is not None else ()
        return read_data(args, int(np.prod(shapes["x"], dtype=int)), model=model.name, names=names, scales=model.scales)
    return read_data(args, 0, model=model.name, keys=shapes, words=model.categories, scales=model.scales)


def checked(model, x, file=None):
    """`model.check` of what was read from `file`, and in its sentence how it counts rows: as arrays do."""
    try:
        return model.check(x, "x" if file is None else str(file))
    except ValueError as error:
        counted = "; rows count from 0, the header does not" if file is not None and " row " in str(error) else ""
        raise ValueError(f"{error}{counted}") from None


def check_distinct(model, x, plans):
    """Without a prior a component on every distinct point has an infinite likelihood."""
    import numpy as np

    if isinstance(x, dict):
        return
    distinct = len(np.unique(x, axis=0))
    for name, options in plans.items():
        if options.get("prior") is False and distinct < model.num_components:
            raise ValueError(
                f"{name} without a prior needs at least {model.num_components} distinct points for "
                f"{model.num_components} components, the data have {distinct}"
            )


def check_folder(folder: pathlib.Path, files):
    """ValueError where `files` cannot be written in the folder, which is made."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror or error}") from None
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"--out {folder} cannot be written: {name} in it is a folder")


def check_file(path: pathlib.Path):
    """ValueError where the path is no Markdown file that can be written."""
    if path.suffix != ".md":
        raise ValueError(f"--out {path} should be a Markdown file, NAME.md")
    if path.is_dir():
        raise ValueError(f"--out {path} cannot be written: it is a folder")
    check_folder(path.parent, ())
