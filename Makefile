# `make demo` and `make test` need nothing but Python 3.11+ with venv; each builds what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c infra/constraints.txt
# pip compiles one file at a time; what packages' own tests hold is left to whoever imports it
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true

.PHONY: demo test test-long lint bench clean

ENVIRONMENT := $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)

$(VENV)/.demo: pyproject.toml infra/constraints.txt
	$(ENVIRONMENT)
	$(PIP) -e ".[score,search,report]"
	$(COMPILE)
	touch $@

# holds what the demo needs too: one installation, not two
$(VENV)/.test: pyproject.toml infra/constraints.txt
	$(ENVIRONMENT)
	$(PIP) -e ".[all,test,lint]"
	$(COMPILE)
	touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) -e ".[all,test,lint,bench]"
	$(PIP) --no-deps -r infra/no_deps.txt
	$(COMPILE)
	touch $@

demo: $(VENV)/.demo
	$(BIN)/quadmix run configs/quickstart.yaml

test: $(VENV)/.test
	sh infra/ensure_java.sh
	sh infra/ensure_chromium.sh
	$(BIN)/python -m pytest -m "not long" -n 2 --no-loadscope-reorder

# slow proofs: see the README for what they show and how long they take
test-long: $(VENV)/.bench
	sh infra/ensure_java.sh
	$(BIN)/python -m pytest -m long

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	for script in candidates selection proxies heuristics tokenizers regressors quickstart search influence; do \
		$(BIN)/python -m benchmarks.$$script || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "missed a bar or failed:$$failed"; exit 1; }

clean:
	rm -rf $(VENV) runs build dist
