"""Which patients a bundle was trained on, as it keeps them: salted digests of inputs, without identity or values.

    training-patients.json    salt: key of the digests, in hexadecimal
                              slide, vector, rna: sorted digests, one for each patient who has that input; of
                              several slides, one for all of them and one for each
                              clinical: the same, only in bundles that read nothing else

A digest is keyed BLAKE2b (RFC 7693). Who has a patient's inputs can tell whether the patient is among them; the inputs
cannot be computed from a digest, and tile features and the expression of many genes have far too many possible values
to be tried. The lists are sorted one by one, so nothing tells which entries belong to one patient.

Clinical variables have few possible values, and full digests would give them away by trying all. They are used only
where there is nothing else, and cut to 16 bits: among 10^6 possible patients, about 15 fit each digest. With n training
patients, one stranger in 65,536 / n fits by chance, and whoever shares a patient's variables always does.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from survfuse.bundle.manifest import TRAINING_PATIENTS
from survfuse.runtime.arrays import Rows
from survfuse.runtime.errors import BundleError, brief
from survfuse.tasks.modalities import Combination
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    from torch import Tensor

SALT = "salt"
_PROBES = 64  # tiles of a slide that its digest looks at
_BYTES = {"slide": 16, VECTOR: 16, "rna": 16, "clinical": 2}  # of a digest, by modality


@dataclass(frozen=True)
class TrainingPatients:
    """Digests of the patients that a bundle was trained on, by modality."""

    salt: bytes
    digests: Mapping[str, frozenset[str]]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainingPatients":
        """Read ``training-patients.json``; raises BundleError if it does not have this form."""
        salt, lists = value.get(SALT), {name: entry for name, entry in value.items() if name != SALT}
        if not isinstance(salt, str) or not _is_hexadecimal(salt, 16):
            raise BundleError(f"{TRAINING_PATIENTS}: expected a {SALT} of 16 bytes in hexadecimal, found {brief(salt)}")
        if set(lists) != {"clinical"} and not (lists and set(lists) <= {"slide", VECTOR, "rna"}):
            raise BundleError(
                f"{TRAINING_PATIENTS}: expected digests of slide, vector and rna, or of clinical alone, "
                f"found {brief(', '.join(lists) or 'none')}"
            )
        for name, entries in lists.items():
            sound = isinstance(entries, list) and all(_is_hexadecimal(entry, _BYTES[name]) for entry in entries)
            if not sound or not entries or entries != sorted(set(entries)):
                raise BundleError(
                    f"{TRAINING_PATIENTS}: {name}: expected a sorted list of distinct digests of {_BYTES[name]} bytes"
                )
        return cls(bytes.fromhex(salt), {name: frozenset(entries) for name, entries in lists.items()})

    def to_json(self) -> dict[str, object]:
        """The digests as ``training-patients.json`` keeps them; the inverse of ``from_json``."""
        return {SALT: self.salt.hex()} | {name: sorted(entries) for name, entries in self.digests.items()}

    @property
    def shared(self) -> bool:
        """Whether other patients may well have the same digest: clinical variables are all that the bundle reads."""
        return "clinical" in self.digests

    def check_fits(self, modalities: Combination) -> None:
        """Raise BundleError for digests of what a bundle of these modalities does not read."""
        if not set(self.digests) <= set(known_by(modalities)):
            found, expected = ", ".join(self.digests), ", ".join(known_by(modalities))
            raise BundleError(f"{TRAINING_PATIENTS}: digests of {found}, but this bundle knows patients by {expected}")

    def hold(self, case: Mapping[str, str]) -> bool | None:
        """Whether a case with these digests, by modality, is among the patients; None if nothing can be compared.

        One modality that agrees is enough: a case may lack others, or have another slide of the same patient.

        >>> patients = TrainingPatients(bytes(16), {"slide": frozenset("a"), "rna": frozenset("b")})
        >>> patients.hold({"slide": "x", "rna": "b"}), patients.hold({"rna": "x"}), patients.hold({})
        (True, False, None)
        """
        compared = [digest in self.digests[name] for name, digest in case.items() if name in self.digests]
        return any(compared) if compared else None


def known_by(modalities: Combination) -> Combination:
    """The modalities by which a bundle that reads ``modalities`` knows its patients.

    >>> known_by(("slide", "clinical")), known_by(("clinical",))
    (('slide',), ('clinical',))
    """
    return tuple(name for name in modalities if name != "clinical") or modalities


def probed(tiles: int) -> Rows:
    """Numbers of the tiles, of so many, that a slide's digest looks at: up to 64, evenly spaced.

    >>> probed(3).tolist(), len(probed(20_000)), int(probed(20_000)[-1])
    ([0, 1, 2], 64, 19999)
    """
    number = min(tiles, _PROBES)
    return np.arange(number) * (tiles - 1) // max(number - 1, 1)


def slide_digest(salt: bytes, tiles: int, features: "Tensor") -> str:
    """Digest of a slide of so many ``tiles`` by the ``features`` [k, D] of those that are ``probed``.

    They are rounded to half precision, so that copies of any precision and file format agree. Features that were
    extracted again, by other hardware or from other tiles, do not.
    """
    halves = features.float().half() + 0.0  # a number below half precision becomes 0, and never −0
    shape = f"{tiles} {features.shape[1]} ".encode("ascii")
    return _digest("slide", salt, shape + halves.numpy().astype("<f2").tobytes())


def vector_digest(salt: bytes, values: ArrayLike) -> str:
    """Digest of a slide-level vector [V], rounded to half precision as tile features are."""
    with np.errstate(over="ignore"):  # a number beyond half precision becomes infinite
        halves = np.asarray(values, dtype=np.float32).astype("<f2") + np.float16(0.0)
    return _digest(VECTOR, salt, halves.astype("<f2").tobytes())


def expression_digest(salt: bytes, values: ArrayLike) -> str | None:
    """Digest of raw expression [G] in the order of a bundle's genes, NaN where absent; None if all are."""
    numbers = np.asarray(values, dtype=np.float32)
    return None if np.isnan(numbers).all() else _digest("rna", salt, _as_bytes(numbers))


def clinical_digest(salt: bytes, vector: ArrayLike) -> str:
    """Digest, of 16 bits, of clinical variables as a bundle's vocabulary encodes them [C]."""
    return _digest("clinical", salt, _as_bytes(np.asarray(vector, dtype=np.float32)))


def salt_of(fingerprint: str) -> bytes:
    """The salt of the training with this fingerprint: the same cohort gives the same bundle."""
    return hashlib.blake2b(fingerprint.encode("ascii"), digest_size=16, person=b"salt").digest()


def _digest(modality: str, salt: bytes, data: bytes) -> str:
    person = modality.encode("ascii")  # so that lists of different modalities have nothing in common
    return hashlib.blake2b(data, digest_size=_BYTES[modality], key=salt, person=person).hexdigest()


def _as_bytes(values: NDArray[np.float32]) -> bytes:
    """Numbers in one byte order, with one NaN and one zero."""
    return np.where(np.isnan(values), np.nan, values + 0.0).astype("<f4").tobytes()


def _is_hexadecimal(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * length}}}", value) is not None
