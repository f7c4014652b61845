# Needs only make and a python3 (3.11 or newer) with venv. Everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := .venv-docs
# Three processes on two cores: tests wait for servers and for processes that they start.
PYTEST_ARGS ?= -n 3
# Those that need no data set; the others say how they are run.
BENCHMARKS := certificate_cost certified_step lipschitz_bound lipschitz_models training_step

.PHONY: demo test test-jax test-lowest test-beam coverage lint format bench docs constraints constraints-docs constraints-beam clean

demo: $(READY)
	$(BIN)/clustr demo

test: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS)
	KERAS_BACKEND=jax $(BIN)/pytest --quick $(PYTEST_ARGS)

# All of the core's tests on JAX, compiled as users run it; make test leaves out those of tests/slow_on_jax.txt.
test-jax: $(READY)
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=false $(BIN)/pytest $(PYTEST_ARGS)

# What the tests of make test run of the package; less than 90 % is an error.
coverage: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS) --cov --cov-report=
	KERAS_BACKEND=jax $(BIN)/pytest --quick $(PYTEST_ARGS) --cov --cov-append

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	for script in $(BENCHMARKS); do $(BIN)/python benchmarks/$$script.py || exit 1; done

# Into site/, which reads without a server: open site/index.html. Never --quiet, with which --strict counts no warnings.
# The variable silences a notice about Material's successor; see pyproject.toml.
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "Wrote site/index.html."

# Remade when the dependencies change; otherwise an existing environment is used as it is.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; got " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		(rm -rf $(VENV); echo "venv is missing: on Debian or Ubuntu, apt install python3-venv"; exit 1)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The extra `docs` alone: the package itself is not installed, nor TensorFlow.
DOCS_EXTRA := $(DOCS)/bin/python -c 'import tomllib; \
	print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"]))'

$(DOCS)/.ready: pyproject.toml constraints-docs.txt
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS_EXTRA) | $(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints-docs.txt --requirement /dev/stdin
	@touch $@

constraints-docs:
	rm -rf $(DOCS)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS_EXTRA) | $(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	{ echo "# The versions that make docs installs; make constraints-docs renews them."; \
		$(DOCS)/bin/python -m pip freeze; } > constraints-docs.txt
	@touch $(DOCS)/.ready

# The installed versions, frozen after an upgrade.
constraints:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	{ echo "# The versions that make demo and make test install; make constraints renews them."; \
		$(BIN)/python -m pip freeze --exclude-editable; } > constraints.txt
	@touch $(READY)

# The tests on the lower bounds of pyproject.toml, in an environment of their own.
test-lowest:
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/pytest $(PYTEST_ARGS)

# Apache Beam wants an older protobuf than everything else, so `clustr certify --input` and its tests have an environment
# of their own.
BEAM_READY := .venv-beam/.ready
BEAM_INSTALL = .venv-beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[beam]' pytest pytest-xdist hypothesis

test-beam: $(BEAM_READY)
	.venv-beam/bin/pytest tests/bulk

$(BEAM_READY): pyproject.toml constraints-beam.txt
	@test -x .venv-beam/bin/python || $(PYTHON) -m venv .venv-beam
	$(BEAM_INSTALL) --constraint constraints-beam.txt
	@touch $@

constraints-beam:
	rm -rf .venv-beam
	$(PYTHON) -m venv .venv-beam
	$(BEAM_INSTALL)
	{ echo "# The versions that make test-beam installs; make constraints-beam renews them."; \
		.venv-beam/bin/python -m pip freeze --exclude-editable; } > constraints-beam.txt
	@touch $(BEAM_READY)

clean:
	rm -rf $(VENV) .venv-lowest .venv-beam $(DOCS) runs dist build site .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
