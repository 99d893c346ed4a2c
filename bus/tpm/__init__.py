"""A TPM, or several, and many callers.

Tpm        what a chip can do, one call at a time, from one thread     esapi (hardware, swtpm) · software · slow · testing.FakeTpm
TpmEngine  the same for many async callers, over named keys            engine (here) · several (TPMs as one) · remote (over service)
Vault      the keys themselves: wrapped blobs on disk, or in memory
"""

from __future__ import annotations

import os

os.environ.setdefault("TSS2_LOG", "all+none")  # the TSS reads it when it loads; its own chatter on stderr helps nobody
