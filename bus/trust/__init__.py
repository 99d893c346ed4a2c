"""Who is believed: certificates, revocations, trust statements and policy bundles, read strictly and judged."""
