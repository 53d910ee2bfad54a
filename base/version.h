/* The version of the three programs, which are built and installed together. */
#pragma once
#define WEFT_VERSION "0.1.0"
