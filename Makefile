# Everything is done by remotegpud; ARGS are passed on, e.g. `make up ARGS="--simulate 4x8:H100-80GB"`.
REMOTEGPUD := deploy/remotegpud

.PHONY: up down status doctor test lint lock bench bench-tasks bench-scheduler bench-billing

up: ## set up what is missing, start everything, print where to go
	@$(REMOTEGPUD) up $(ARGS)

down: ## stop everything; the data stays
	@$(REMOTEGPUD) down $(ARGS)

status: ## the health of each part
	@$(REMOTEGPUD) status $(ARGS)

doctor: ## what is wrong, and what to do
	@$(REMOTEGPUD) doctor $(ARGS)

test: ## linters, types, import contracts and the whole test suite
	@$(REMOTEGPUD) check $(ARGS)

lint: ## linters, types and import contracts only
	@$(REMOTEGPUD) lint

lock: ## write the requirement locks again after a change of pyproject.toml
	@$(REMOTEGPUD) lint --lock

bench: ## measure the platform: starting environments, `up`, the API; JSON and a table
	@REMOTEGPU_DEV=1 $(REMOTEGPUD) bench $(ARGS)

bench-tasks: ## measure tasks: one, many, arrays, a long queue, Ray's own client, output that is followed
	@REMOTEGPU_DEV=1 $(REMOTEGPUD) bench tasks task-array ray-jobs log-follow

bench-scheduler: ## measure the scheduler: make bench-scheduler TRACES=DIR; packing a trace, decision cycles, queue sets
	@REMOTEGPU_DEV=1 TRACES="$(TRACES)" $(REMOTEGPUD) bench scheduler end-estimate decision-cycle queue-sets

bench-billing: ## measure the money path: ingestion over COPY, a day of 1,000 GPUs, a large statement, admission
	@REMOTEGPU_DEV=1 $(REMOTEGPUD) bench billing
