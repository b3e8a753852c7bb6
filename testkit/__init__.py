"""A telephone for tests, benchmarks and the demo: a SIP caller, a private Asterisk, speech to say and ears to check."""
