# Shortcuts. `make demo` and `make test` are the README's two commands.
.PHONY: methods families bench-search bench-peers demo test check bench docs zoo
demo:
	bash scripts/demo.sh
test check:
	bash scripts/test.sh
bench-search:
	.venv/bin/python benchmarks/search_gain.py --seeds 9 --json benchmarks/search_gain.json
bench-peers:
	.venv/bin/python benchmarks/search/run.py --seeds 5 --out build/search
	.venv/bin/python benchmarks/search/table.py build/search --json benchmarks/search/results.json --plot docs/pictures/search_benchmark.svg
bench:
	.venv/bin/python benchmarks/turnaround.py
zoo:
	.venv/bin/python -m tools.zoo.train
docs:
	.venv/bin/typer mergefront.cli utils docs --name mergefront --title "Command line" --output docs/cli.md
	for kind in run space task; do .venv/bin/mergefront schema $$kind > docs/schemas/$$kind.schema.json; done
	.venv/bin/python -m scripts.docs_tasks docs/tasks.md
	.venv/bin/python -m scripts.docs_pairs > docs/pairs.md
methods:
	.venv/bin/python -m pytest -q tests/test_methods_peers.py tests/test_methods_sparse.py tests/test_methods_geometric.py tests/test_methods_spectral.py --oracles docs/methods.md
families:
	.venv/bin/python scripts/families.py
