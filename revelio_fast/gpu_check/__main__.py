"""python -m revelio_fast.gpu_check: the parity checks at small sizes on the first GPU; what compute-sanitizer runs."""

import sys

from revelio_fast.gpu_check.parity import parity
from revelio_fast.gpu_check.problems import SMALL

if __name__ == "__main__":
    failed = [finding for finding in parity("cuda", ("triton", "cuda"), SMALL) if finding.passed is False]
    print(*failed, sep="\n")
    sys.exit(1 if failed else 0)
