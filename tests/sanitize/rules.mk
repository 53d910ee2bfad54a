# Programs and tests under TSan, ASan with UBSan, and valgrind, every report counted (tests/sanitize/run). None of these is part of the check: they take 10 minutes to an hour.
.PHONY: tsan e2e-tsan soak-sanitized valgrind sanitized-programs
SANITIZED = bash -c '. ops/setup.sh && fetch_base && exec "$$0" tests/sanitize/run "$$@"' $(E2E_PYTHON)
sanitized-programs: programs $(B)/tests/sanitize/wrong

tsan: ## C tests under TSan: ARGS="--only WORD"
	$(MAKE) MODE=tsan c-tests sanitized-programs
	tests/sanitize/run tests $(ARGS)

e2e-tsan: ## gateway and engine as processes, the programs under TSan: ARGS="-- tests/e2e/gateway -n 2 --dist loadfile"
	$(MAKE) MODE=tsan sanitized-programs
	$(SANITIZED) e2e $(ARGS)

soak-sanitized: ## R20's load on gateway and engine under TSan, then under ASan+UBSan, leaks at the stop included: ARGS="--seconds 240"
	$(MAKE) MODE=tsan sanitized-programs
	$(MAKE) MODE=asan sanitized-programs
	$(SANITIZED) soak $(ARGS)

valgrind: programs $(B)/tests/sanitize/wrong ## the engine's plain C path under memcheck, with tiny models
	$(SANITIZED) valgrind $(ARGS)

# Its mkdir() is the one that TSan's runtime calls, for the folder of its log, before anything is there that instrumented code needs. The store itself is instrumented.
$(B)/tests/unit/test_adapters_store.o: OPT_tsan := -O1 -fno-omit-frame-pointer
