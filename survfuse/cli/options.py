"""Options and arguments that several commands share, and the kinds they are made of.

A name is checked as soon as it is read, so a typing error is reported before anything heavy is imported. The same list
of names is used for shell completion.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from typer.models import ArgumentInfo, OptionInfo

from survfuse.cohort.table_paths import DUPLICATES, CohortTables
from survfuse.cohort.time_unit import UNITS
from survfuse.prediction.unusable_slide import UNUSABLE_SLIDE
from survfuse.runtime.device_choice import check_device
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.log import listing
from survfuse.runtime.suggestions import check_exists, check_is_file, check_is_folder, unknown
from survfuse.slide.registry import ENCODERS
from survfuse.tasks.registry import WITH_VECTORS
from survfuse.workers.settings import Cluster

Value = TypeVar("Value")
INPUTS, OUTPUTS, ENCODER, MACHINE = "Inputs", "Outputs", "Tile encoder", "Machine"  # panels in --help
MACHINES = "Several machines"


def one_of(kind: str, names: Sequence[str], text: str, panel: str, metavar: str = "NAME") -> OptionInfo:
    """An option whose value is one of ``names``, or None; ``kind`` says in an error what they are."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise InputError(unknown(kind, value, names))
        return value

    return _option(text, panel, metavar=metavar, callback=check, autocompletion=_completion(names))


def several_of(kind: str, names: Sequence[str], text: str, panel: str, metavar: str = "NAME...") -> OptionInfo:
    """An option that takes one or more of ``names``; ``kind`` says in an error what they are."""

    def check(values: list[str] | None) -> list[str] | None:
        for value in values or ():
            if value not in names:
                raise InputError(unknown(kind, value, names))
        return values

    return _option(text, panel, metavar=metavar, callback=check, autocompletion=_completion(names))


def names(text: str, panel: str) -> OptionInfo:
    """An option that takes one or more names that only the data know."""
    return _option(text, panel, metavar="NAME...")


def name(text: str, panel: str) -> OptionInfo:
    """An option that takes one name that only the data know."""
    return _option(text, panel, metavar="NAME")


def number(text: str, panel: str) -> OptionInfo:
    """An option with a whole or real number; its type is the parameter's."""
    return _option(text, panel)


def numbers(text: str, panel: str, default: Sequence[int]) -> OptionInfo:
    """An option that takes one or more whole numbers; ``default`` is what --help shows."""
    info: OptionInfo = typer.Option(
        help=text, rich_help_panel=panel, metavar="INT...", show_default=" ".join(map(str, default))
    )
    return info


def file_option(text: str, panel: str = INPUTS, metavar: str = "FILE") -> OptionInfo:
    """An option with a file to read, which must be there."""
    return _option(text, panel, metavar=metavar, callback=_checked(check_is_file))


def output_option(text: str, metavar: str, panel: str = OUTPUTS) -> OptionInfo:
    """An option with a file or folder to write."""
    return _option(text, panel, metavar=metavar)


def source_of(folder: Path | None, tables: CohortTables, metavar: str) -> Path | CohortTables:
    """The folder or file ``metavar``, or else the tables, that was given; raises InputError unless one of them was."""
    named = tables.paths
    if folder is not None and named:
        raise InputError(f"expected {metavar} or tables, found both {folder} and {listing(map(str, named))}")
    if folder is None and not named:
        raise InputError(
            f"expected {metavar}, or tables in its place (--slides, --vectors, --clinical, --expression), found neither"
        )
    return folder if folder is not None else tables


def cluster_of(address: str | None, workers: int | None, cpus: int, gpus: float | None) -> Cluster | None:
    """The cluster at ``address``, if one was named; raises InputError for options of a cluster without one."""
    if address is not None:
        return Cluster(address, workers, cpus, gpus)
    if workers is not None or cpus != Cluster.cpus_per_worker or gpus is not None:
        raise InputError("--workers, --cpus-per-worker and --gpus-per-worker need --cluster")
    return None


def check_output_file(path: Path | None) -> None:
    """Raise InputError for a file to be written whose folder does not exist, or that is a folder itself."""
    if path is not None:
        check_is_folder(path.parent)
        if path.is_dir():
            raise InputError(f"{path}: expected a file to write, found a folder")


def _option(
    text: str,
    panel: str,
    metavar: str | None = None,
    callback: Callable[..., object] | None = None,
    autocompletion: Callable[..., list[str]] | None = None,
) -> OptionInfo:
    info: OptionInfo = typer.Option(
        help=text, rich_help_panel=panel, metavar=metavar, callback=callback, autocompletion=autocompletion
    )
    return info


def _argument(text: str, metavar: str, callback: Callable[..., object] | None) -> ArgumentInfo:
    info: ArgumentInfo = typer.Argument(help=text, metavar=metavar, callback=callback, show_default=False)
    return info


def _completion(names: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def _checked(check: Callable[[Value], None]) -> Callable[[Value | None], Value | None]:
    def checked(value: Value | None) -> Value | None:
        if value is not None:
            check(value)
        return value

    return checked


def _check_bundle(path: Path) -> None:
    check_is_folder(path, BundleError)


TABLES = "Tables in place of a folder"
CohortFolder = Annotated[
    Path | None, _argument("Folder of a cohort; its tables may take its place.", "[COHORT]", _checked(check_is_folder))
]
SlidesTable = Annotated[
    Path | None, file_option("Columns patient and file: tile features, or for extract slides.", TABLES, "TABLE")
]
VectorsTable = Annotated[
    Path | None, file_option("Columns patient and file: slide-level vectors, .h5 or .pt.", TABLES, "TABLE")
]
ClinicalTable = Annotated[Path | None, file_option("A column patient, and one for each variable.", TABLES, "TABLE")]
ExpressionTable = Annotated[
    Path | None, file_option("Genes × patients or patients × genes, found out.", TABLES, "TABLE")
]
Duplicates = Annotated[
    str | None,
    one_of(
        "choice",
        DUPLICATES,
        f"How several rows of one gene are merged: {', '.join(DUPLICATES)} (default: they are an error).",
        TABLES,
    ),
]
SlideOrCohort = Annotated[
    Path | None,
    _argument(
        "A slide (its file, or the folder with its several files), or the folder of a cohort.",
        "[SLIDE|COHORT]",
        _checked(check_exists),
    ),
]
CasesOrTables = Annotated[
    Path | None,
    _argument(
        "A case in the platform's layout, a folder of such cases, or a cohort; tables may take its place.",
        "[CASE|FOLDER|COHORT]",
        _checked(check_is_folder),
    ),
]
BundleArgument = Annotated[Path, _argument("Folder of a bundle.", "BUNDLE", _checked(_check_bundle))]
BundleOption = Annotated[Path, _option("Bundle to score with.", INPUTS, "BUNDLE", _checked(_check_bundle))]
EncoderName = Annotated[str, one_of("encoder", tuple(ENCODERS), f"Tile encoder: {', '.join(ENCODERS)}.", ENCODER)]
StatedEncoder = Annotated[
    str | None,
    one_of(
        "encoder",
        tuple(ENCODERS),
        f"Tile encoder (default: as the feature files state, else uni): {', '.join(ENCODERS)}.",
        ENCODER,
    ),
]
StatedMpp = Annotated[
    float | None,
    number("Resolution of a tile, µm per pixel (default: as the feature files state, else 1).", ENCODER),
]
TimeUnit = Annotated[
    str | None, one_of("unit", UNITS, f"Unit of times: {', '.join(UNITS)} (default: months).", INPUTS, "UNIT")
]
TimeColumn = Annotated[str | None, name("Column of times (default: by its name).", INPUTS)]
EventColumn = Annotated[str | None, name("Column of events (default: by its name).", INPUTS)]
WeightFile = Annotated[Path | None, file_option("The encoder's weight file, .safetensors or torch.", ENCODER)]
TileMpp = Annotated[float, number("Resolution of a tile, µm per pixel.", ENCODER)]
AssumedMpp = Annotated[float | None, number("µm per level-0 pixel, for slides that state none.", ENCODER)]
Device = Annotated[
    str | None,
    _option(
        "auto, cpu, cuda or cuda:N, GPU number N (default: SURVFUSE_DEVICE, else auto: the GPU if there is one).",
        MACHINE,
        "NAME",
        _checked(check_device),
        _completion(("auto", "cpu", "cuda", "cuda:0")),
    ),
]
Modalities = Annotated[
    list[str] | None,
    several_of(
        "modality",
        WITH_VECTORS.modalities,
        f"Modalities to read: {', '.join(WITH_VECTORS.modalities)} (default: all that there are).",
        INPUTS,
    ),
]
UnusableSlide = Annotated[
    str,
    one_of(
        "choice",
        UNUSABLE_SLIDE,
        "If a slide cannot be read: refuse the case, or omit the slide if the bundle was trained for that.",
        INPUTS,
    ),
]
ExcludeTraining = Annotated[
    bool,
    typer.Option(
        "--exclude-training", help="Leave out patients that the bundle was trained on.", rich_help_panel=INPUTS
    ),
]
ClusterAddress = Annotated[
    str | None,
    _option(
        "Ray cluster to work on: its HOST:PORT, or local for workers on this machine. Needs the extra cluster.",
        MACHINES,
        "ADDRESS",
    ),
]
Workers = Annotated[int | None, number("Workers on the cluster (default: as many as there is room for).", MACHINES)]
CpusPerWorker = Annotated[int, number("CPUs of each worker, which computes on as many threads.", MACHINES)]
GpusPerWorker = Annotated[
    float | None, number("Share of a GPU of each worker (default: 1 if the cluster has GPUs).", MACHINES)
]
ShardOf = Annotated[
    str | None,
    _option("Part I of N of the work, the same on every run: for job arrays without a cluster.", MACHINES, "I/N"),
]
FeatureCache = Annotated[
    Path | None,
    output_option("Folder for copies of features that cannot be mapped (default: a temporary one).", "FOLDER", MACHINE),
]
