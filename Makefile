# Everything one needs daily.  `make help` lists it; .ci/run calls setup, lint, test and docs-test.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DATA_DIR ?= ../shared/data
SEEDS ?= 0
ROWS ?= accuracy

.PHONY: help setup services demo test test-services chaos soak fuzz lint docs-test format bench-serving bench-overload bench-triton bench-smoke bench-accuracy bench-defaults bench-rankers bench-two-tower bench-two-stage bench-train-speed bench-eval-speed bench-ials bench-textbook bench-experiments bench-experiments-speed bench-off-policy bench-cookie-cats bench-dashboard mutants clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## ?/  \1\t/' | expand -t 24

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e '.[dev]'
	@touch $@

setup: .venv/ready  ## the environment in .venv: the package, its test tools, the pinned torch

services:  ## Debian packages that tests of the real programs need: Redis, Prometheus, haproxy, nginx, Chromium
	tools/services.sh

demo: .venv/ready  ## MovieLens-100K in, a served two-stage recommender out
	$(BIN)/suisen demo

test: .venv/ready  ## all tests, with coverage
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

test-services: .venv/ready  ## tests against the real Redis, broker, Prometheus, haproxy, nginx, tritonserver, Chromium
	$(BIN)/python -m pytest -q -rs tests/services

chaos: .venv/ready  ## ten minutes of everything that goes wrong, recorded; writes docs/reliability.md
	$(BIN)/python -m tests.services.chaos --seconds $(or $(SECONDS),600) --record; status=$$?; $(BIN)/python tools/reliability_page.py; exit $$status

soak: .venv/ready  ## a million requests and hostile clients, recorded; writes docs/reliability.md (about 5 minutes)
	$(BIN)/python -m tests.services.chaos.soak --record; status=$$?; $(BIN)/python tools/reliability_page.py; exit $$status

fuzz: .venv/ready  ## thousands of requests made from the description
	SUISEN_FUZZ=$(or $(REQUESTS),2000) $(BIN)/python -m pytest -q tests/serving/test_described.py

lint: .venv/ready  ## format, rules, types, doors between rooms, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py

docs-test: .venv/ready  ## README, guides and docstrings run as written; numbers in docs stand in results files
	$(BIN)/python -m pytest -q --no-cov --doctest-modules --doctest-glob='*.md' src README.md CONTRIBUTING.md docs
	$(BIN)/python tools/architecture.py --check
	$(BIN)/python tools/models_page.py --check
	$(BIN)/python tools/textbook_page.py --check
	$(BIN)/python tools/two_stage_page.py --check
	$(BIN)/python tools/serving_page.py --check
	$(BIN)/python tools/reliability_page.py --check
	$(BIN)/python tools/experiments_page.py --check
	$(BIN)/python tools/metrics_page.py --check
	$(BIN)/python tools/grafana.py --check
	$(BIN)/python benchmarks/dashboard.py --check
	$(BIN)/python tools/mutants.py --check
	$(BIN)/python tools/check_docs.py

format: .venv/ready  ## mend what format and rules can mend themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-smoke: .venv/ready  ## accuracy of iALS, EASE and SASRec on public splits (an hour and more)
	$(BIN)/python benchmarks/smoke.py --data-dir $(DATA_DIR)

bench-accuracy: .venv/ready  ## every model on public splits: MODEL=gmf DATA=ncf-ml-1m SEEDS="0 1 2" ROWS=textbook
	$(BIN)/python benchmarks/accuracy.py --data-dir $(DATA_DIR) $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) --seeds $(SEEDS) --rows $(ROWS) $(if $(THREADS),--threads $(THREADS))

bench-defaults: .venv/ready  ## every model without a setting on every data set (a day; it resumes): MODEL=ials DATA=gowalla
	$(BIN)/python benchmarks/defaults.py --data-dir $(DATA_DIR) $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) --seeds $(SEEDS) --threads $(or $(THREADS),1)

bench-rankers: .venv/ready  ## every ranker behind EASE and iALS on MovieLens-100K (an hour on one core; it resumes): SEEDS="0 1 2"
	$(BIN)/python benchmarks/rankers.py --data-dir $(DATA_DIR) --seeds $(SEEDS) --threads $(or $(THREADS),1)

bench-two-tower: .venv/ready  ## Two-Tower's losses and temperatures beside each other (1 hour): DATA="gowalla ml-1m.zip"
	$(BIN)/python benchmarks/two_tower.py losses temperature plot --data-dir $(DATA_DIR) $(if $(DATA),--data $(DATA)) --seeds $(SEEDS) $(if $(THREADS),--threads $(THREADS))

bench-two-stage: .venv/ready  ## features of pairs: their cost, and two stages with and without them (20 minutes; it resumes)
	$(BIN)/python benchmarks/two_stage.py --data-dir $(DATA_DIR) --seeds $(SEEDS) --threads $(or $(THREADS),1); status=$$?; $(BIN)/python tools/two_stage_page.py; exit $$status

bench-train-speed: .venv/ready  ## training against the textbook loop
	$(BIN)/python benchmarks/train_speed.py --data-dir $(DATA_DIR)

bench-eval-speed: .venv/ready  ## evaluation against RecBole's (makes its own environment)
	$(BIN)/python benchmarks/eval_speed.py --data-dir $(DATA_DIR)

bench-serving: .venv/ready  ## the fast answer's goals, over HTTP and in process (20 minutes): PART="open knee"
	$(BIN)/python benchmarks/serving/run.py --data-dir $(DATA_DIR) $(if $(PART),--part $(PART)); status=$$?; $(BIN)/python tools/serving_page.py; exit $$status

bench-overload: .venv/ready  ## goodput and refusals at up to ten times what is borne (4 minutes, after bench-serving)
	$(BIN)/python benchmarks/serving/run.py --data-dir $(DATA_DIR) --part overload; status=$$?; $(BIN)/python tools/serving_page.py; exit $$status

bench-triton: .venv/ready  ## a real tritonserver beside ours (2 minutes, after bench-serving and make services)
	$(BIN)/python benchmarks/serving/run.py --data-dir $(DATA_DIR) --part triton; status=$$?; $(BIN)/python tools/serving_page.py; exit $$status

bench-request-cost: .venv/ready  ## one request at 10 thousand to 10 million users and items
	$(BIN)/python benchmarks/request_cost.py

bench-ials: .venv/ready  ## iALS sweeps against implicit's (makes its own environment)
	$(BIN)/python benchmarks/ials_speed.py --data-dir $(DATA_DIR)

bench-textbook: .venv/ready  ## what docs/textbook.md's exercises are answered with, apart from accuracy
	$(BIN)/python benchmarks/ncf_dims.py
	$(BIN)/python benchmarks/fm_cost.py
	$(BIN)/python benchmarks/sequence_shapes.py
	$(BIN)/python benchmarks/request_parts.py
	$(BIN)/python tools/textbook_page.py

bench-experiments: .venv/ready  ## proofs of the tests: false alarms, coverage, power, peeking (20 minutes on 2 cores)
	$(BIN)/python benchmarks/experiments.py $(if $(REPEAT),--repeat $(REPEAT))

bench-experiments-speed: .venv/ready  ## an analysis of 100 million events beside tea-tasting and pandas (EVENTS="1000000 10000000")
	$(BIN)/python benchmarks/experiments_speed.py $(if $(EVENTS),--events $(EVENTS))

bench-off-policy: .venv/ready  ## off-policy estimates on the Open Bandit sample (fetches 1.4 MB)
	$(BIN)/python benchmarks/off_policy.py

bench-cookie-cats: .venv/ready  ## 90,189 players, two gates: the published reading (DATA_DIR/cookie-cats)
	$(BIN)/python benchmarks/cookie_cats.py --data-dir $(DATA_DIR)

mutants: .venv/ready  ## small faults put into the source on purpose: does a test fail? (2 hours; SEED=1 for others)
	$(BIN)/python tools/mutants.py --part 1 --parts 2 --seed $(or $(SEED),0) & $(BIN)/python tools/mutants.py --parts 2 --seed $(or $(SEED),0); wait
	$(BIN)/python tools/mutants.py --page

bench-dashboard: .venv/ready  ## the dashboard's picture from a server under load (3 minutes; needs prometheus)
	$(BIN)/python benchmarks/dashboard.py

clean:  ## what the tools left behind (not .venv, not runs)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
