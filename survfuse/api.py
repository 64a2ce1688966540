"""The package as a library: the functions behind the commands, with the commands' defaults.

Paths may be text or ``Path``. Each function logs its steps on stdout, as its command does, and raises
``InputError`` for a path, name or number that cannot be used, ``BundleError`` for a damaged bundle and
``EnvironmentFailure`` if the machine fails. Paths and names are checked before torch and the other heavy libraries are
imported.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.demonstration import DEMONSTRATION_BUNDLE, announce_demonstration
from survfuse.bundle.load import load as load_bundle
from survfuse.bundle.place import check_place
from survfuse.cohort.table_paths import CohortTables
from survfuse.cohort.time_unit import UNITS
from survfuse.model import Model
from survfuse.runtime.device_choice import check_device
from survfuse.runtime.errors import BundleError, InputError, check_extra
from survfuse.runtime.log import stage
from survfuse.runtime.suggestions import check_exists, check_is_file, check_is_folder, check_outputs, unknown
from survfuse.slide.parts import is_slide_folder
from survfuse.slide.registry import check_weights, find_spec
from survfuse.slide.settings import SlideSettings
from survfuse.tasks.modalities import check_modalities
from survfuse.tasks.registry import WITH_VECTORS
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard

if TYPE_CHECKING:
    from survfuse.evaluation.evaluate import Evaluation
    from survfuse.networks.sizes import Sizes
    from survfuse.training.protocol import Protocol


def load(model: str | Path, *, device: str | None = None) -> Model:
    """Load the bundle in the folder ``model``, ready to predict, with every checksum verified.

    ``device`` is auto, cpu, cuda or cuda:N (default: SURVFUSE_DEVICE, else auto). Demonstration weights announce
    themselves on stdout. Raises BundleError for a bundle that is absent, damaged or from a different release.

    >>> from contextlib import redirect_stdout
    >>> with redirect_stdout(None):
    ...     model = load("resources/demonstration", device="cpu")
    >>> model.modalities
    ('slide', 'rna', 'clinical')
    """
    check_device(device)
    bundle = load_bundle(Path(model))
    announce_demonstration(bundle)
    return Model(bundle, device)


def demonstration(*, device: str | None = None) -> Model:
    """Load the demonstration bundle that comes with the package; its predictions mean nothing clinically.

    It was trained on simulated patients, and says so on stdout. ``device`` is as in ``load``.

    >>> model = demonstration(device="cpu")
    [...] notice       DEMONSTRATION WEIGHTS. ...
    >>> model.bundle.demonstration
    True
    """
    return load(DEMONSTRATION_BUNDLE, device=device)


def extract(
    slide_or_cohort: str | Path | CohortTables,
    out: str | Path | None = None,
    *,
    mask: str | Path | None = None,
    encoder: str = "efficientnet-lite0",
    weights: str | Path | None = None,
    mpp: float = SlideSettings.mpp,
    min_coverage: float = SlideSettings.min_coverage,
    assume_mpp: float | None = None,
    preview: str | Path | None = None,
    device: str | None = None,
    cluster: Cluster | None = None,
    shard: str | None = None,
) -> Path:
    """Write the tile features [N, D] of a slide, or of every slide of a cohort, as HDF5 that CLAM and TRIDENT read.

    ``out`` is the HDF5 file for a slide; for a cohort it is the folder in which ``features/features`` is written
    (default: the cohort itself), and for tables, of which only that of slides is read, a folder for the features and
    for ``slides.csv``, the table of them that ``train`` takes. A slide is its file, or the folder with its several
    files. A cohort's slides that already have features made with the same settings are skipped.

    ``mask`` is a slide's tissue mask, .tif or .mha; without one, tissue is found by colour. ``weights`` is the
    encoder's weight file, which every encoder but efficientnet-lite0 needs. ``mpp`` is the resolution of a tile in µm
    per pixel, ``min_coverage`` the share of a tile that must be tissue, ``assume_mpp`` the µm per level-0 pixel of a
    slide that states none. ``preview`` is a JPEG to write of the slide with its tissue and the tiles kept; for a cohort
    it is a folder of these, ``<slide>.jpg``, also of slides that are skipped, unless theirs is there. ``device`` is
    as in ``load``; a cohort's slides are shared out among all GPUs. ``cluster`` does a cohort's slides on other
    machines, and ``shard``, as in "2/8", only its second eighth, with the same features in the end. What became of each
    slide is written to ``extract.json`` in ``out``, or the cohort.

    Returns the path of the HDF5 file or, for a cohort, the folder that the features were written to. Raises InputError
    for a slide without tissue, one that cannot be read, and for wrong arguments; for a cohort it lists every slide
    that failed, after all were tried.

    >>> from contextlib import redirect_stdout
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> slide = next(Path("test/input/interf0").rglob("*_HE.tif"))
    >>> with TemporaryDirectory() as folder, redirect_stdout(None):
    ...     with h5py.File(extract(slide, f"{folder}/slide.h5", device="cpu")) as file:
    ...         dimension = file["features"].shape[1]
    >>> dimension
    1280
    """
    source = slide_or_cohort if isinstance(slide_or_cohort, CohortTables) else Path(slide_or_cohort)
    if isinstance(source, Path):
        check_exists(source)
    check_device(device)
    settings = _slide_settings(encoder, mpp, min_coverage, assume_mpp)
    weight_file = _weight_file(weights)
    check_weights(find_spec(encoder), weight_file)
    part = Shard.parse(shard) if shard is not None else None
    if isinstance(source, CohortTables) or (source.is_dir() and not is_slide_folder(source)):
        if mask is not None:
            raise InputError(
                "a mask belongs to one slide; a cohort's masks lie next to its slides, or are in its table"
            )
        previews = Path(preview) if preview is not None else None
        if previews is not None and previews.exists():
            check_is_folder(previews)
        return _extract_cohort(
            source, Path(out) if out is not None else None, settings, weight_file, previews, device, cluster, part
        )
    if cluster is not None or part is not None:
        raise InputError(f"{source}: a cluster or a shard is for the slides of a cohort, found one slide")
    if out is None:
        raise InputError("--out is missing: a slide's features need a file to be written to, such as --out slide.h5")
    file = Path(out)
    check_is_folder(file.parent)
    if file.is_dir():
        raise InputError(f"{file}: expected a file for the slide's features, found a folder")
    mask_file = Path(mask) if mask is not None else None
    if mask_file is not None:
        check_is_file(mask_file)
    picture = Path(preview) if preview is not None else None
    if picture is not None:
        _check_picture(picture, file)
    return _extract_slide(source, mask_file, file, settings, weight_file, picture, device)


def _check_picture(picture: Path, features: Path) -> None:
    """Raise InputError unless a slide's preview can be written to ``picture``."""
    from survfuse.slide.preview import check_preview

    check_preview(picture)
    check_is_folder(picture.parent)
    if picture.is_dir() or picture == features:
        raise InputError(f"{picture}: expected a file of its own for the preview")


def _extract_slide(
    slide: Path,
    mask: Path | None,
    out: Path,
    settings: SlideSettings,
    weights: Path | None,
    preview: Path | None,
    device: str | None,
) -> Path:
    from survfuse.cohort.extracted_file import write_extracted
    from survfuse.runtime.device import chosen_device
    from survfuse.runtime.files import sha256
    from survfuse.slide.encoders import load_encoder
    from survfuse.slide.extract import extract
    from survfuse.slide.parts import slide_file
    from survfuse.slide.preview import write_preview

    opened = slide_file(slide)
    encoder = load_encoder(settings.encoder, weights, chosen_device(device))  # before the slide, which takes longer
    extracted = extract(opened, mask, settings, weights, encoder.device, InputError, lambda: encoder)
    digest = sha256(weights) if weights is not None else None
    write_extracted(out, slide.stem, settings, extracted, digest, mask)
    stage("written", str(out))
    if preview is not None:
        write_preview(preview, opened, mask, settings, extracted.origins)
        stage("written", str(preview))
    return out


def _extract_cohort(
    cohort: Path | CohortTables,
    out: Path | None,
    settings: SlideSettings,
    weights: Path | None,
    previews: Path | None,
    device: str | None,
    cluster: Cluster | None,
    shard: Shard | None,
) -> Path:
    from survfuse.cohort.extract import Extraction, extract_cohort
    from survfuse.cohort.extract_table import extract_table
    from survfuse.workers.executor import executor

    extraction = Extraction(settings, weights, previews, shard)
    if isinstance(cohort, CohortTables):
        if cohort.slides is None or out is None:
            raise InputError("a table of slides needs --slides, and --out with a folder for their features")
        with executor(device, cluster) as where:
            extract_table(cohort.slides, out, extraction, where)
        return out
    with executor(device, cluster) as where:
        extract_cohort(cohort, out, extraction, where)
    return out or cohort


def train(
    cohort: str | Path | CohortTables,
    out: str | Path,
    *,
    work: str | Path | None = None,
    outcomes: str | Path | None = None,
    time_unit: str | None = None,
    time_column: str | None = None,
    event_column: str | None = None,
    variables: str | Path | None = None,
    modalities: Sequence[str] | None = None,
    keep_variables: Sequence[str] = (),
    encoder: str | None = None,
    weights: str | Path | None = None,
    mpp: float | None = None,
    assume_mpp: float | None = None,
    device: str | None = None,
    protocol: "Protocol | None" = None,
    sizes: "Sizes | None" = None,
    draws: int = 500,
    cluster: Cluster | None = None,
) -> Path:
    """Train an ensemble on a cohort, in a folder or in tables, and freeze it as a bundle.

    ``out`` is the bundle's folder, which must be empty or absent. ``work`` keeps the training state, the report and the
    TensorBoard scalars (default: ``<out>.training`` beside the bundle); an interrupted run resumes from there and
    ends with the same bundle. ``outcomes`` is a table with patient, time and event (default: each patient's clinical
    JSON, or the clinical table); ``time_column`` and ``event_column`` name other columns, and times are in
    ``time_unit``, days, months or years (default: months). ``variables`` is a JSON file that states types, ranges,
    categories and missing codes of clinical variables. ``modalities`` are the ones to read (default: all of the task's,
    or those that there are tables of; slide-level vectors if there are any). ``keep_variables`` are clinical variables
    to use although they look like outcomes, by name or by what they say of the patients' outcomes, or like identifiers.

    ``encoder``, ``mpp`` (µm per pixel of a tile; both default to what the feature files state, else uni and 1) and
    ``assume_mpp`` (µm per level-0 pixel of slides that state none) say how the tile features were made; ``weights``,
    the encoder's weight file, is copied into the bundle so that it
    can encode slides. ``protocol`` holds the choices for training, ``sizes`` the networks' widths. ``draws`` is the
    number of bootstrap draws behind the intervals in the report. ``cluster`` fits the members on other machines, which
    must see the cohort's features and ``work``; without it, one GPU of this machine does.

    Returns the bundle's folder. Raises InputError that lists every patient that cannot be used, for a cohort too small
    for its folds, and if ``out`` holds a different bundle.

    >>> from contextlib import redirect_stdout
    >>> from tempfile import TemporaryDirectory
    >>> from survfuse.cohort.simulate import simulate
    >>> from survfuse.training.protocol import Protocol
    >>> with TemporaryDirectory() as folder, redirect_stdout(None):
    ...     cohort = Path(folder, "cohort")
    ...     simulate(cohort, number=40, seed=1, genes=8, tiles=2)
    ...     protocol = Protocol(fusion="clinical", folds=2, inner=2)
    ...     bundle = train(cohort, f"{folder}/bundle", modalities=["clinical"], protocol=protocol, draws=10)
    ...     files = sorted(path.name for path in bundle.iterdir())
    >>> "manifest.json" in files
    True
    """
    root, bundle = _source(cohort), Path(out)
    table, stated = (Path(file) if file is not None else None for file in (outcomes, variables))
    for file in filter(None, (table, stated)):
        check_is_file(file)
    check_device(device)
    if modalities is not None:
        check_modalities(modalities, WITH_VECTORS.modalities)
    _check_unit(time_unit)
    _check_draws(draws)
    _slide_settings(encoder or "uni", mpp or SlideSettings.mpp, SlideSettings.min_coverage, assume_mpp)
    weight_file = _weight_file(weights)
    state = Path(work) if work is not None else bundle.with_name(f"{bundle.name}.training")
    check_place(bundle, remains=state.is_dir())  # `train` checks more, once its imports are loaded

    check_extra("train", "train")
    from survfuse.cohort.outcomes import OutcomeColumns
    from survfuse.cohort.read import read_cohort
    from survfuse.cohort.stated_variables import StatedVariables
    from survfuse.networks.sizes import Sizes
    from survfuse.runtime.waiting import threads
    from survfuse.training.clearing import cleared
    from survfuse.training.protocol import Protocol
    from survfuse.training.train import check_out, train
    from survfuse.workers.executor import executor

    check_out(bundle, state)
    features = state / "features"
    # On a cluster, the numbers that this process adds are computed on as many threads as the workers'.
    own = threads(cluster.cpus_per_worker) if cluster is not None else nullcontext()
    with executor(device, cluster, all_gpus=False) as where, own, cleared(state, features):
        patients = read_cohort(
            root,
            features,
            table,
            modalities,
            keep_variables=keep_variables,
            columns=OutcomeColumns(time_column, event_column, time_unit),
            variables=StatedVariables.read(stated) if stated is not None else StatedVariables(),
        )
        found = patients.features_made_with(encoder, mpp)
        settings = _slide_settings(*found, SlideSettings.min_coverage, assume_mpp)
        chosen_protocol, widths = protocol or Protocol(), sizes or Sizes()
        name = root.resolve().name if isinstance(root, Path) else str(root)
        train(patients, chosen_protocol, widths, settings, bundle, state, weight_file, where, draws, name)
    return bundle


def evaluate(
    predictions: str | Path,
    outcomes: str | Path,
    *,
    survival: str | Path | None = None,
    report: str | Path | None = None,
    by: Sequence[str] = (),
    clinical: str | Path | None = None,
    versus: str | Path | None = None,
    versus_survival: str | Path | None = None,
    exclude_training: bool = False,
    time_unit: str | None = None,
    time_column: str | None = None,
    event_column: str | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> "Evaluation":
    """Compute the concordance of predicted months and risks with outcomes, and further figures.

    ``predictions`` is a CSV with case_id, risk and months, as ``predict`` writes it; ``outcomes`` a CSV with case_id,
    time and event, or the folder of a cohort; ``time_unit``, ``time_column`` and ``event_column`` are as in ``train``.
    ``survival`` is the CSV of survival curves that ``predict`` writes. ``report`` is a page to write, HTML. ``by`` are
    clinical variables to form subgroups by, of the cohort or of the CSV ``clinical``, which has case_id and a column
    for each. ``versus`` is another model's CSV of predictions, to compare with; ``versus_survival`` is that of its
    survival curves, to compare with ``survival``. With ``exclude_training``, patients that the table says the bundle
    was trained on are left out, and outcomes without a prediction as well. Patients are matched by case_id. ``draws``
    bootstrap draws over patients, from ``seed``, give each figure's 95% percentile interval.

    Returns the figures by name, ready for JSON: a figure is ``value`` with the ``low`` and ``high`` ends of its
    interval, None if undefined. ``finding`` says in words what was found. ``challenge_concordance`` is computed from
    the months, the other figures from the risks and the survival curves. Raises InputError that lists every problem in
    the tables, including patients that only one of them has, for an unknown variable, for ``versus_survival`` without
    ``versus`` or ``survival``, and for a ``report`` that is one of the tables.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     predictions, outcomes = Path(folder, "predictions.csv"), Path(folder, "outcomes.csv")
    ...     _ = predictions.write_text("case_id,risk,months\\na,2,10\\nb,1,20\\nc,0,30\\n")
    ...     _ = outcomes.write_text("case_id,time,event\\na,12,1\\nb,25,1\\nc,40,0\\n")
    ...     figures = evaluate(predictions, outcomes, draws=10)
    >>> figures["challenge_concordance"]["value"]
    1.0
    """
    predicted, observed = Path(predictions), Path(outcomes)
    curves, other, other_curves, variables = (
        None if table is None else Path(table) for table in (survival, versus, versus_survival, clinical)
    )
    check_is_file(predicted)
    check_exists(observed)
    for table in (curves, other, other_curves, variables):
        if table is not None:
            check_is_file(table)
    page = Path(report) if report is not None else None
    if page is not None:
        check_is_folder(page.parent)
        if page.is_dir():
            raise InputError(f"{page}: expected a file for the report, found a folder")
    check_outputs({"--report": page}, (predicted, observed, curves, other, other_curves, variables))
    _check_draws(draws)
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, found {seed}")

    _check_unit(time_unit)
    check_extra("train", "evaluate")
    from survfuse.cohort.outcomes import OutcomeColumns
    from survfuse.evaluation.evaluate import evaluate
    from survfuse.evaluation.inputs import Files

    columns = OutcomeColumns(time_column, event_column, time_unit)
    files = Files(predicted, observed, curves, other, other_curves, variables, tuple(by), columns)
    found = evaluate(files, draws, seed, exclude_training=exclude_training)
    if page is not None:
        from survfuse.evaluation.external_page import write_page

        write_page(page, found, predicted.name, observed.name)
    return found.figures


def explain(
    source: str | Path | CohortTables,
    out: str | Path,
    *,
    model: str | Path,
    modalities: Sequence[str] | None = None,
    omit_unusable_slide: bool = False,
    cache: str | Path | None = None,
    device: str | None = None,
    cluster: Cluster | None = None,
    shard: str | None = None,
) -> Path:
    """Write why each case at ``source`` has its risk: a page, maps of the tiles and a table of contributions.

    ``source`` is a case in the platform's layout, a folder of such cases, or a cohort, in a folder or in tables. The
    files of a single case are written to the folder ``out``, those of several to folders in it that are named after
    them; all or none. An earlier explanation in ``out`` is replaced. ``model`` is a bundle's folder, ``modalities`` are
    those to use (default: all of the bundle's). With ``omit_unusable_slide`` a slide that cannot be read is left out if
    the bundle scores such cases. Copies of a cohort's features that cannot be mapped go to ``cache`` (default: a
    temporary folder). ``device`` is as in ``load``; several cases are shared out among all GPUs. ``cluster`` explains
    them on other machines, and ``shard``, as in "2/8", only the second eighth of them.

    Returns ``out``. Raises InputError for cases that cannot be used, all of them in one error, and for an ``out`` that
    holds anything but explanations; BundleError for a bundle that cannot be used.

    >>> from contextlib import redirect_stdout
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, redirect_stdout(None):
    ...     out = explain("test/input/interf1", f"{folder}/why", model="resources/demonstration", device="cpu")
    ...     files = sorted(path.name for path in out.iterdir())
    >>> files[:3]
    ['case.html', 'case.json', 'contributions.csv']
    """
    cases = _source(source)
    check_is_folder(Path(model), BundleError)
    check_device(device)
    if modalities is not None:
        check_modalities(modalities, WITH_VECTORS.modalities)
    part = Shard.parse(shard) if shard is not None else None
    from survfuse.explanation.explain import explain

    explain(
        cases,
        Path(model),
        Path(out),
        cache=Path(cache) if cache is not None else None,
        modalities=modalities,
        device=device,
        omit_unusable_slide=omit_unusable_slide,
        cluster=cluster,
        shard=part,
    )
    return Path(out)


def _source(given: str | Path | CohortTables) -> Path | CohortTables:
    """A folder or tables of patients; raises InputError for what is not there."""
    if not isinstance(given, CohortTables):
        check_is_folder(Path(given))
        return Path(given)
    for table in given.paths:
        check_is_file(table)
    return given


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise InputError(f"draws: expected at least 1 bootstrap draw, found {draws}")


def _check_unit(name: str | None) -> None:
    if name not in (None, *UNITS):
        raise InputError(unknown("unit", str(name), UNITS))


def _weight_file(weights: str | Path | None) -> Path | None:
    if weights is None:
        return None
    check_is_file(Path(weights))
    return Path(weights)


def _slide_settings(encoder: str, mpp: float, min_coverage: float, assume_mpp: float | None) -> SlideSettings:
    spec = find_spec(encoder)
    settings = SlideSettings(spec.name, spec.dimension, spec.input_px, mpp, min_coverage, assume_mpp)
    if problem := settings.problem():
        raise InputError(problem)
    return settings
