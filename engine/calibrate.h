/* weft-engine calibrate --model M [--out FILE] [--seconds N]: what this machine's steps and loads cost with this base, as a profile (schema/profile.def).
 * Exit codes: 0, 2 bad arguments, 3 model refused or nothing could be measured. */
#pragma once

int verb_calibrate(int argc, char **argv);
