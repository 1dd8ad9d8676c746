# Every target makes what it needs; a second run re-uses .venv.
PYTHON ?= python3
BIN := .venv/bin
TYPESCRIPT := clients/typescript
INSTALL_TYPESCRIPT = $(MAKE) --silent $(TYPESCRIPT)/node_modules/.package-lock.json
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo demo-ab test gpu gpu-wheels check serve stubs docs notices wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a base model, plain and steered, side by side over gRPC"
	@echo "make demo-ab an experiment on simulated users: watched, reported, promoted"
	@echo "make test    the whole test suite"
	@echo "make gpu     tests and timings on a CUDA device, into device-report/; no .venv needed"
	@echo "make gpu-wheels  what make gpu needs on a machine without a network, into .wheels/"
	@echo "make check   ruff, mypy, buf lint, buf breaking, promtool, tsc"
	@echo "make serve   the server on the embedded model, until Ctrl-C"
	@echo "make stubs   regenerate proto/bosal/v1/*_pb2* and clients/typescript/src/gen"
	@echo "make docs    regenerate docs/rules.md and docs/configuration.md"
	@echo "make notices regenerate THIRD_PARTY_NOTICES.md"
	@echo "make wheel   build the wheel into dist/"

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/server: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[server]'
	@touch $@

.venv/dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/server

# What the TypeScript client depends on.
$(TYPESCRIPT)/node_modules/.package-lock.json: $(TYPESCRIPT)/package-lock.json
	cd $(TYPESCRIPT) && npm ci
	@touch $@

demo: .venv/server
	$(BIN)/bosal demo

demo-ab: .venv/server
	$(BIN)/bosal demo-ab --html experiment.html

serve: .venv/server
	$(BIN)/bosal serve

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Of glibc so many releases: pip matches them one by one.
GLIBC := 5 12 17 24 26 27 28 31 34 35
OUT ?= device-report

gpu:
	$(PYTHON) benchmarks/device.py --out $(OUT) $(if $(wildcard .wheels),--wheels .wheels)

gpu-wheels: $(BIN)/python
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: \
		--python-version 3.12 --implementation cp \
		$(foreach release,$(GLIBC),--platform manylinux_2_$(release)_x86_64) \
		--platform manylinux2014_x86_64 --constraint constraints.txt \
		--requirement benchmarks/device-wheels.txt --dest .wheels

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/alerts.yml && promtool test rules deploy/alerts.test.yml; \
	else echo "promtool is not installed: deploy/alerts.yml was not checked (Debian: prometheus)"; fi
	@if command -v npm >/dev/null && $(INSTALL_TYPESCRIPT); then \
		cd $(TYPESCRIPT) && npm run --silent check; \
	else echo "npm or what it installs is missing: $(TYPESCRIPT) was not checked (Debian: nodejs npm)"; fi

stubs: .venv/dev
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto \
		--python_out=proto --grpc_python_out=proto --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto \
		proto/bosal/v1/*.proto
	@if command -v npm >/dev/null && $(INSTALL_TYPESCRIPT); then \
		$(BIN)/python $(TYPESCRIPT)/stubs.py; \
	else echo "npm or what it installs is missing: $(TYPESCRIPT)/src/gen is as it was"; fi

docs: .venv/server
	$(BIN)/python -m bosal_decoding.reference > docs/rules.md
	$(BIN)/python -m bosal_server.config_reference > docs/configuration.md

notices: .venv/server
	$(BIN)/python -m bosal_server.notices > THIRD_PARTY_NOTICES.md

wheel: .venv/dev
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf .venv dist build $(addprefix $(TYPESCRIPT)/,node_modules dist build)
