# Each target sets up what it needs first (scripts/setup: silent and quick where nothing is missing).
# Arguments for the command behind a target: make run ARGS="--seconds 10 --json", make test ARGS="tests/protocol -k merkle".

ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint format lock bench bench-peers bench-targets soak clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: ## set up, then run the hub and the fleet of 76 agents, and show what they do, until Ctrl-C
	@scripts/setup
	@.venv/bin/tpmbus run $(ARGS)

test: ## set up, check style and types, and run all tests on the built wheel
	@scripts/setup test
	@scripts/test --lint $(ARGS)

lint: ## ruff and mypy
	@scripts/setup
	@scripts/lint

format: ## let ruff lay out the code and mend what it can
	@scripts/setup
	@.venv/bin/ruff format --quiet .
	@.venv/bin/ruff check --quiet --fix .

lock: ## write the lock files again (ARGS=--upgrade for newer versions)
	@scripts/setup
	@scripts/lock $(ARGS)

bench: ## measure, and print the numbers beside their targets
	@scripts/setup test
	@scripts/bench $(ARGS)

bench-peers: ## install other buses, and measure them and tpmbus in turns (ARGS="--workload reqrep --only nats,zenoh")
	@scripts/setup test
	@scripts/bench-peers $(ARGS)

bench-targets: ## measure all that tpmbus must reach, row by row, in 25 minutes (ARGS="--html found.html --only durable")
	@scripts/setup test
	@scripts/bench-targets $(ARGS)

soak: ## the long runs: scenarios at full size with a table at the end, much more random and guided input
	@scripts/setup test
	@scripts/soak $(ARGS)

clean: ## remove the virtual environment and everything that tools left
	@rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
