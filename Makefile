# Shortcuts. `make demo` and `make test` are the README's two commands.
.PHONY: demo test check quick coverage site bench bench-search bench-peers docs methods families zoo
demo:
	bash scripts/demo.sh
test check:
	bash scripts/test.sh
quick:
	bash scripts/test.sh -m "not slow"
coverage:
	bash scripts/setup.sh dev
	.venv/bin/python -m pytest --cov --cov-report=term
site:
	.venv/bin/mkdocs serve
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
	.venv/bin/python -m pytest -q tests/merging/test_methods_*.py --oracles docs/methods.md
families:
	.venv/bin/python scripts/families.py
