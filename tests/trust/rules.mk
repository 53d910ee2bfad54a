# Programs that the rows of trust need besides the product: shims, helpers in C. TRUST_PROGRAMS are built by `make trust`.
TRUST_PROGRAMS :=
TRUST_PROGRAMS += $(B)/tests/load/fake_engine $(B)/tests/load/exchanges

# Faults (tests/trust/faults/): the library that stands before the C library's calls, and the walk through all faults of a disk.
TRUST_PROGRAMS += build/release/tests/trust/shim.so $(B)/tests/trust/faults/disk
build/release/tests/trust/shim.so: tests/trust/faults/shim.c tests/trust/faults/shim.h
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE -I. -O2 -g -fPIC $(filter-out -Wwrite-strings,$(WARN)) -fno-builtin -U_FORTIFY_SOURCE -shared -o $@.new $< -ldl && mv $@.new $@

# R17: names and connections of the test's own.
TRUST_PROGRAMS += build/release/tests/trust/names.so
build/release/tests/trust/names.so: tests/trust/faults/names.c
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE -I. -O2 -g -fPIC $(WARN) -shared -o $@.new $< -ldl && mv $@.new $@
