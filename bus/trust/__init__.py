"""Who is believed: certificates, revocations, trust statements and policy bundles, read strictly and judged. Pure: no I/O, no clock."""
