# Everything a person does with Carpus. `make demo` and `make test` do their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check bench chaos format sbom

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# The main job on this machine: `carpus serve`, a PACS beside it, films sent, results returned. FILM=path SEX=F for a film of your own.
demo: $(STAMP)
	$(BIN)/carpus demo $(if $(FILM),--film "$(FILM)" $(if $(SEX),--sex $(SEX)))

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The whole way through real sockets with the memory of every process; then the Reader alone, each step on an otherwise idle machine.
bench: $(STAMP)
	$(BIN)/python -m benchmarks.end_to_end
	$(BIN)/python -m benchmarks.reader --films 40

# Break everything that can break while films come in; FILMS and SEEDS for a shorter run. What is kept is not run again; hours in full.
FILMS ?= 1000
SEEDS ?= 1 2 3 4 5 6 7 8 9 10
chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos --films $(FILMS) --seeds $(SEEDS) --json benchmarks/chaos.json
	$(BIN)/python -m benchmarks.chaos.table

# The bill of materials (CycloneDX) of the default install; fails on a licence that it may not hold.
sbom: $(STAMP)
	$(BIN)/python -m deploy.bill_of_materials
