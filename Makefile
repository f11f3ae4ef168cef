# Each target sets up what it needs: the first one called makes .venv and installs the pinned packages into it.

PROFILE ?= quick
DATASET ?= fashion
RESOLUTION ?=

# photos at 64 pixels -> photos-64; folder:../cifar10.zip -> folder-cifar10.zip
slug = $(shell printf '%s' '$(DATASET)' | sed -E 's,:(.*/)?([^/]+)/*$$,-\2,; s,[^A-Za-z0-9._-]+,-,g')$(if $(RESOLUTION),-$(RESOLUTION))
OUT ?= reports/$(PROFILE)-$(slug)
# Where the whole lab run goes, and its size.
MEASURED ?= reports/lab
SIZE ?= lab
PORT ?= 8866

# The versions of constraints.txt were tested with Python 3.11; anything newer is tried, anything older refused.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

# Two gigabytes each.
WORKERS = $(shell $(BIN)/python -c 'import labkit; print(min(4, labkit.THREADS.number))')

.PHONY: help reports test test-fast lab dashboards screenshots scaling bench measured lint clean
.DELETE_ON_ERROR:

help:
	@echo 'make reports     run the notebooks and write $(OUT)/index.html'
	@echo 'make test        unit tests, and every notebook on the smoke profile, with coverage'
	@echo 'make test-fast   the tests that took least in `make test`, in a minute or two'
	@echo 'make lab         open the notebooks in JupyterLab'
	@echo 'make dashboards  serve the dashboards on http://127.0.0.1:$(PORT)/'
	@echo 'make screenshots  after make reports: pictures and response times of the dashboards, into reports/dashboards'
	@echo 'make scaling     measure what more ranks and larger images cost, into docs/SCALING.md'
	@echo 'make bench       measure the speeds that the lab claims'
	@echo 'make measured    the whole lab run, hours: CIFAR10=folder:PATH IMAGENET10=folder:PATH SAMPLES=folder:PATH, or one of them'
	@echo 'make lint        ruff on code and notebooks; imports point downwards; notebooks carry no outputs'
	@echo 'make clean       remove the environment and the tools'\'' caches (data and reports stay)'
	@echo
	@echo 'variables        PROFILE=smoke|quick|lab|paper   DATASET=fashion|photos|cifar10|imagenet10|imagenet|folder:PATH'
	@echo '                 MODEL=SPEC   DEFENSE=SPEC (dashboards alone; docs/EVALUATION.md)'
	@echo '                 RESOLUTION=pixels   OUT=folder   PORT=number   PYTHON=python3.x'

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'labkit needs Python 3.11 or newer, and found no python3: install it, or name one with PYTHON=…' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "labkit needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1): name a newer one with PYTHON=…" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo 'Making .venv with $(PYTHON)'; $(PYTHON) -m venv --clear .venv; } || { echo 'Could not make .venv; on Debian, install python3-venv' >&2; exit 1; }
	@echo 'Installing the pinned packages into .venv (minutes, once; later calls skip this)'
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

reports: $(READY)
	$(BIN)/python -m labkit report --profile $(PROFILE) --dataset '$(DATASET)' $(if $(RESOLUTION),--resolution $(RESOLUTION)) --out '$(OUT)'

# nbval runs each notebook from top to bottom; a stripped notebook has no outputs to compare with, hence -lax.
# Its kernels measure coverage, too, but only when told of what and how: a bare --cov makes them hang.
# A worker for each core that may be used, with one thread: two workers do more than two threads. A file's tests share
# what they train, so one worker has them all.
test: $(READY)
	LABKIT_PROFILE=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests notebooks --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	    --cov=labkit --cov-config=pyproject.toml --cov-report=term --durations=10 --junitxml=.pytest_cache/tests.xml

test-fast: $(READY)
	LABKIT_PROFILE=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --fast --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=notebooks

dashboards: $(READY)
	$(BIN)/python -m labkit dashboards --port $(PORT) --profile $(PROFILE) --dataset '$(DATASET)' $(if $(RESOLUTION),--resolution $(RESOLUTION)) \
	    $(if $(MODEL),--model '$(MODEL)') $(if $(DEFENSE),--defense '$(DEFENSE)')

screenshots: $(READY)
	$(BIN)/python tests/measure_pages.py reports/dashboards

scaling: $(READY)
	$(BIN)/python -m benchmarks.scaling --dataset '$(DATASET)' --out docs

bench: $(READY)
	$(BIN)/python -m benchmarks.bench --out reports/bench

# The paper's tables and its Figures 5 to 7 on real images, and what is read from them. Every part goes on where it was
# stopped; `labkit plan` tells beforehand what it takes. The photographs that come with packages are for the question of
# resolution alone: at the quick size, and fewer cells the larger they are. ImageNet-10 is at the quick size, too: at 64
# pixels the lab size takes more than a day. SAMPLES are images of 224 pixels, perhaps one a class: T alone is measured,
# and what ImageNet would get is tried with a network that has learned nothing.
TRIED = --model torchvision:resnet50@reports/lab-samples/resnet50.safetensors --dataset '$(SAMPLES)' --resolution 224 \
    --note 'The accuracy means nothing: the network has random features, and its head is fitted on these very pictures.'
measured: $(READY)
	@test -n '$(CIFAR10)$(IMAGENET10)$(SAMPLES)' || { echo 'Name the images: make measured CIFAR10=folder:PATH IMAGENET10=folder:PATH SAMPLES=folder:PATH (one is enough)' >&2; exit 1; }
ifdef CIFAR10
	$(BIN)/python -m labkit table 1 4 5 8a --profile $(SIZE) --dataset '$(CIFAR10)' --out '$(MEASURED)/cifar10'
	$(BIN)/python -m labkit table 1 5 --convention released --profile $(SIZE) --epochs 8 --dataset '$(CIFAR10)' \
	    --out '$(MEASURED)/cifar10' --only 'defense=No Defense,STL'
	$(BIN)/python -m labkit table causes --profile $(SIZE) --epochs 8 --dataset '$(CIFAR10)' --out '$(MEASURED)/cifar10'
	$(BIN)/python -m labkit table baselines --profile $(SIZE) --epochs 8 --dataset '$(CIFAR10)' --out '$(MEASURED)/cifar10/8-epochs' \
	    --only 'defense=No Defense,STL,JPEG,TVM,Quilting,TVM+quilt,Crop-Ens,Crop-Ens (crops of 88%),D3 (40K-5),D3 (10K-4)'
	$(BIN)/python -m labkit table baselines holds --profile $(SIZE) --dataset '$(CIFAR10)' --out '$(MEASURED)/cifar10'
	$(BIN)/python -m labkit report --profile $(SIZE) --dataset '$(CIFAR10)' --notebooks 05,06 --out reports/lab-notebooks
	for part in 05_defense_tables 06_tradeoff; do \
	    mkdir -p '$(MEASURED)/cifar10'/$$part && \
	    cp reports/lab-notebooks/$$part/* reports/lab-notebooks/manifest.json '$(MEASURED)/cifar10'/$$part || exit; \
	done
	cd '$(MEASURED)/cifar10' && rm -f 05_defense_tables/gallery.png '06_tradeoff/lambda pictures.png' # of older runs: the images are not ours
endif
ifdef IMAGENET10
	$(BIN)/python -m labkit table 2a 6a 8b --convention released --profile quick --dataset '$(IMAGENET10)' --out '$(MEASURED)/imagenet10'
	$(BIN)/python -m labkit table 2a 6a 8b --profile quick --dataset '$(IMAGENET10)' --out '$(MEASURED)/imagenet10'
endif
ifdef SAMPLES
	$(BIN)/python -m labkit report --profile quick --dataset '$(SAMPLES)' --notebooks 03 --out reports/lab-samples
	mkdir -p '$(MEASURED)/imagenet-samples/03_projection'
	cp reports/lab-samples/03_projection/*.csv reports/lab-samples/03_projection/*.json reports/lab-samples/03_projection/headline.md \
	    reports/lab-samples/manifest.json '$(MEASURED)/imagenet-samples/03_projection' # and no picture: the images are not ours
	$(BIN)/python examples/random_resnet50.py '$(SAMPLES)' reports/lab-samples/resnet50.safetensors
	$(BIN)/python -m labkit evaluate $(TRIED) --images 12 --effort fast --without-pictures --out reports/trials/evaluation
	$(BIN)/python -m labkit table 7 $(TRIED) --profile smoke --out reports/trials \
	    --only 'defense=No Defense,STL,TVM' --only 'attack=Clean,FGSM-0.08'
	$(BIN)/python -m labkit table 3 $(TRIED) --profile smoke --out reports/trials \
	    --only 'defense=No Defense,STL' --only 'attack=Clean,FGSM-0.06 avg' --only knowledge=classifier
endif
	$(BIN)/python -m labkit table 6a --profile quick --dataset photos --resolution 64 --out '$(MEASURED)/photos' \
	    --only 'defense=No Defense,STL,STL (cluster)' --only 'attack=Clean,FGSM-0.08,FGSM-0.04,BIM-0.03,DeepFool-0.03'
	$(BIN)/python -m labkit table 6b --profile quick --dataset photos --resolution 128 --out '$(MEASURED)/photos' \
	    --only 'defense=No Defense,STL,STL (cluster)' --only 'attack=Clean,FGSM-0.08,FGSM-0.04,BIM-0.03,DeepFool-0.03'
	$(BIN)/python -m labkit table 7 --profile quick --dataset photos --resolution 224 --out '$(MEASURED)/photos' \
	    --only 'defense=No Defense,STL' --only 'attack=Clean,FGSM-0.08'
	$(BIN)/python -m labkit findings '$(MEASURED)' --out '$(MEASURED)/../README.md'
	$(BIN)/python -m labkit leaderboard '$(MEASURED)' --out '$(MEASURED)/../leaderboard'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir .venv/.import_linter
	find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(BIN)/nbstripout --keep-id --verify {} +

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
