"""What it costs to seal to a reader's key and to open that: the floor under every grant.

python tests/benchmarks/kem.py
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from targets import Row, show

from bus.identity import ml_dsa
from bus.identity.kem_keys import generate
from bus.protocol import cosign, kem
from bus.protocol.kem import PrivateKey, PublicKey

BODY = os.urandom(200)
INFO = os.urandom(46)
LOOPS, ROUNDS = 500, 9


def median_us(do: Callable[[], object], *, loops: int = LOOPS) -> float:
    def once() -> float:
        begun = time.perf_counter()
        for _ in range(loops):
            do()
        return (time.perf_counter() - begun) / loops * 1e6

    once()
    return statistics.median(once() for _ in range(ROUNDS))


def rows(word: str, *, seal_us: float, open_us: float, check_us: float) -> list[Row]:
    which = kem.BY_WORD[word]
    private = generate(which)
    public, secret = PublicKey(which, private.public), private.to_bytes()
    sealed = public.seal(BODY, INFO)
    return [
        Row(f"{word}: seal 200 bytes to a key that is parsed", median_us(lambda: public.seal(BODY, INFO)), "us", seal_us),
        Row(f"{word}: open them", median_us(lambda: private.open(sealed, INFO)), "us", open_us),
        Row(f"{word}: check, parse and name a reader's key", median_us(lambda: PublicKey(which, private.public)), "us", check_us),
        Row(f"{word}: a private key from its bytes", median_us(lambda: PrivateKey.from_bytes(which, secret)), "us", 250),
    ]


def main() -> None:
    key = ml_dsa.generate()
    tbs = os.urandom(100)
    cosignature = key.sign(tbs)
    show(
        "Sealing to readers, and the second signature",
        [
            *rows("x25519", seal_us=80, open_us=60, check_us=10),
            *rows("hybrid", seal_us=150, open_us=120, check_us=40),
            Row("ml-dsa-65: verify", median_us(lambda: cosign.verify(key.public, tbs, cosignature), loops=100), "us", 300),
            Row("ml-dsa-65: sign", median_us(lambda: key.sign(tbs), loops=50), "us", 1_500),
        ],
    )


if __name__ == "__main__":
    main()
