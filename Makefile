# Recompute the pinned requirements from the short lists people edit.
.PHONY: lock wheels
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q requirements.in -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q requirements-dev.in -o requirements-dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q serving/pod/requirements.in -o serving/pod/requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q deploy/stage/requirements.in -o deploy/stage/requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q serving/pod/requirements-gpu.in -o serving/pod/requirements-gpu.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q -c requirements.txt --no-emit-package tensorrt-rtx-cu13-libs --no-emit-package tensorrt-rtx-cu13-bindings deploy/requirements.in -o deploy/requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q tests/clients/requirements.in -o tests/clients/requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q deploy/controller/requirements.in -o deploy/controller/requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q deploy/gateway/requirements.in -o deploy/gateway/requirements.txt

# Whether every pinned package has a wheel for each Python and platform that the README names (decision 100).
wheels:
	@set -e; for python in 3.11 3.12 3.13; do for platform in x86_64-manylinux_2_31 aarch64-manylinux_2_35; do \
	  uv pip install --quiet --dry-run --target $$(mktemp -d) --only-binary :all: --python-version $$python \
	    --python-platform $$platform -r requirements.txt -r requirements-dev.txt -r serving/pod/requirements.txt; \
	  echo "$$python on $$platform: every package has a wheel"; \
	done; done
