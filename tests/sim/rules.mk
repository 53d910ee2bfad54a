# weft-simulate (docs/PLACEMENT.md): its parts are an archive, for the unit test links them, too; in it what it borrows of the rooms, so that
# nothing else of them is built for it.
SRC_sim  := $(wildcard tests/sim/sim*.c)
SIMULATE := $(B)/tests/sim/simulate
$(B)/tests/sim/sim.a: $(call obj,$(filter-out tests/sim/simulate.c,$(SRC_sim)) gateway/pool/place.c engine/sched_cost.c)
	@mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^
$(SIMULATE): $(B)/tests/sim/simulate.o $(B)/tests/sim/sim.a $(B)/libbase.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_base) -lm
$(B)/tests/unit/test_sim: $(B)/tests/unit/test_sim.o $(B)/tests/sim/sim.a $(B)/libbase.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_base) -lcmocka -lm

simulate: $(SIMULATE) ## placement of 20,000 adapters on 200 engines, simulated, by policy: ARGS="--max-slots 32", --help (docs/PLACEMENT.md)
	@$(SIMULATE) $(ARGS)

simulate-sweep: $(SIMULATE) ## the tables of docs/PLACEMENT.md, and its plots anew
	@tests/sim/sweep $(SIMULATE) docs/bench

# The planner's formulas (gateway/cli/plan*.c) beside the simulator.
$(B)/tests/unit/test_plan: $(B)/tests/unit/test_plan.o $(call obj,$(wildcard gateway/cli/plan*.c)) $(B)/tests/sim/sim.a $(B)/libbase.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LIB_base) -lcmocka -lm
