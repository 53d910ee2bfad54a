/* What weft-engine does besides serving: each verb reads its own settings and runs to its end. Returns the exit code:
 * 0, 2 bad arguments, 3 model refused; of trace 4: no trace could be had or written. */
#pragma once

int verb_quantize(int argc, char **argv); /* weft-engine quantize IN OUT --type T */
int verb_prune(int argc, char **argv);    /* weft-engine prune IN OUT */
int verb_eval(int argc, char **argv);     /* weft-engine eval --model M --text FILE */
int verb_trace(int argc, char **argv);    /* weft-engine trace OUT.json (--socket S | --url U [--token-file F]) */
