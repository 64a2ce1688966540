"""Names for the arrays that functions take and return."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]  # row numbers: of patients, tiles or genes
Pixels = NDArray[np.uint8]  # colours of 0 … 255
