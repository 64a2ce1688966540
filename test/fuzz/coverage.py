"""Readers fuzzed by coverage: what reaches new code is kept and changed further (atheris, libFuzzer)."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

_SECONDS = 5  # that one input may take


def fuzz(target: str, runs: int, keep: Path) -> int:
    """Try ``runs`` inputs; returns 1 where anything but SurvfuseError was raised. Such an input is left in ``keep``.

    libFuzzer ends at the first input that crashes or hangs a native library. Where the job's own parent process answers
    for it, the next seed goes on.
    """
    keep.mkdir(parents=True, exist_ok=True)
    done = contained = 0
    while done < runs:
        log = keep / f"{target}.log"
        child = os.fork()  # libFuzzer ends its process where it finds something
        if not child:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            _fuzz(target, runs - done, contained + 1, keep)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = log.read_text(errors="replace")
        executed = re.search(r"number_of_executed_units: (\d+)|^Done (\d+)", said, re.MULTILINE)
        found = re.search(r"Test unit written to (\S+)", said)
        sound = code == 0 or (target == "h5" and found and _is_contained(Path(found[1])))
        if executed is None or not sound:
            print(said[-3000:], f"\n{target}: ended with {code}", file=sys.stderr)
            return 1
        done += int(executed[1] or executed[2])
        contained += code != 0
    print(f"coverage-guided, {target}: {done:,} inputs, {contained} contained, nothing else found")
    return 0


def _is_contained(path: Path) -> bool:
    child = os.fork()
    if not child:
        from fuzz import readers

        from survfuse.container import supervisor

        supervisor.PATIENCE = _SECONDS
        copy = path.with_name("contained.h5")
        copy.write_bytes(path.read_bytes())

        def read() -> int:
            readers.read_small_features(copy)
            return 0

        os._exit(supervisor.supervised(read))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def _fuzz(target: str, runs: int, seed: int, keep: Path) -> NoReturn:
    """Fuzz in this process and end it: with 0 once ``runs`` inputs were tried, otherwise as libFuzzer does."""
    import atheris

    with atheris.instrument_imports(include=["survfuse"]):
        from fuzz import readers

        from survfuse.runtime.errors import SurvfuseError
    from fuzz.material import PLACES, h5_files

    scratch = Path(tempfile.mkdtemp())
    if target == "json":
        samples = [(readers.CASE / PLACES["clinical"]).read_bytes(), b'{"TP53": "1.5", "MYC": 2}', b"[1e999, NaN]"]
        path, reads = scratch / "x.json", (readers.read_clinical, readers.read_expression)
    elif target == "h5":
        samples = h5_files(length=4, fixed=True)
        path, reads = scratch / "x.h5", (readers.read_small_features,)
    else:
        root = readers.copied_bundle(scratch)
        samples = [(root / "manifest.json").read_bytes()]
        path, reads = root / "manifest.json", (readers.read_unsealed_bundle,)
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(samples):
        (corpus / str(number)).write_bytes(sample)

    tried = 0

    def one(data: bytes) -> None:
        nonlocal tried
        if tried == runs:
            # Not libFuzzer's own end, which takes the interpreter and every native library down with it: that has ended
            # with an error after all inputs had passed. How a process ends is not under test here.
            os.write(2, f"Done {runs}\n".encode())
            os._exit(0)
        tried += 1
        # A new file, not an old one's inode: HDF5 takes what it may still have open for the same file.
        (scratch / "before").unlink(missing_ok=True)
        if path.exists():
            path.rename(scratch / "before")
        path.write_bytes(data)
        for read in reads:
            try:
                read(path)
            except SurvfuseError as error:
                error.line()

    options = ["-rss_limit_mb=4096", f"-timeout={_SECONDS}", f"-seed={seed}"]
    options += [f"-artifact_prefix={keep}/{target}-", f"-max_len={2 * max(map(len, samples))}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()
    os._exit(1)  # never reached, or this child would go on as its parent
