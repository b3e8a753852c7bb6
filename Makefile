.DEFAULT_GOAL := help
SHELL := /bin/bash
CONFIG ?= config/ai-agent.yaml
PYTHON_ENV := .venv/bin/python

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}'

demo: ## Set everything up and hear a call with the local agent (no key needed); leaves out/call.wav
	@scripts/setup demo
	@$(PYTHON_ENV) scripts/demo.py

test: ## Set everything up and run the whole suite, with real calls through Asterisk
	@scripts/setup dev
	@scripts/test

line: ## An agent to call with your own softphone, until Ctrl-C (private Asterisk, CONFIG)
	@scripts/setup demo
	@scripts/line $(CONFIG)

run: ## Answer calls with CONFIG (config/ai-agent.yaml) and .env, at your own Asterisk
	@scripts/setup run
	@exec $(PYTHON_ENV) -m engine run --config $(CONFIG)

provider-switch: ## Change who talks: make provider-switch provider=openai_realtime
	@$(PYTHON_ENV) scripts/switch_provider.py $(provider) --config $(CONFIG)

bench: ## Measure the engine beside the floor; writes docs/benchmarks.md
	@scripts/setup dev
	@$(PYTHON_ENV) -m bench

impairment: ## Measure what a bad network does to sound over RTP; writes docs/impairment.md
	@scripts/setup dev
	@$(PYTHON_ENV) -m bench.impairment

soak: ## Ten minutes of talking, a hundred calls at once, hundreds in a row; writes docs/soak.md (half an hour)
	@scripts/setup dev
	@$(PYTHON_ENV) -m bench.soak

check: ## Lint, types and import rules, without calls
	@scripts/setup dev
	@scripts/check

lock: ## Resolve the dependencies anew into requirements/*.lock
	@scripts/lock

clean: ## Remove what was made here: environment, private Asterisk, outputs
	@scripts/asterisk stop >/dev/null 2>&1 || true
	rm -rf .venv .asterisk out var .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help demo test line run provider-switch bench impairment soak check lock clean
